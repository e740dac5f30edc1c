//! Completions for shells: commands, options, and values that are files or one of a few words.

use super::super::{PRINT, TABLE, VERBS};
use super::PRINTABLE;
use crate::cli::Opt;
use crate::cli::table::Occurrence;

/// A shell.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Values that are one of a few words.
const WORDS: [(&str, &[&str]); 4] = [
    ("--correlation", &["order", "latest"]),
    ("--failure", &["error", "response"]),
    ("--log-format", &["text", "json"]),
    ("--log-level", &["off", "error", "warn", "info", "debug", "trace"]),
];

/// The value that follows an option.
enum Value {
    Nothing,
    File,
    Words(&'static [&'static str]),
    Other,
}

fn value(opt: &Opt) -> Value {
    let words = WORDS.iter().find(|(flag, _)| *flag == opt.flag).map(|(_, words)| *words);
    match (opt.value, words) {
        ("", _) => Value::Nothing,
        ("FILE", _) => Value::File,
        (_, Some(words)) => Value::Words(words),
        _ => Value::Other,
    }
}

/// The script for a program with this name, which a shell can read as it is.
pub(super) fn script(shell: Shell, program: &str) -> String {
    match shell {
        Shell::Bash => bash(program),
        Shell::Zsh => zsh(program),
        Shell::Fish => fish(program),
    }
}

fn options() -> impl Iterator<Item = &'static Opt> {
    TABLE.iter().filter(|opt| !opt.flag.is_empty())
}

/// The options with such a value.
fn flags(has: fn(&Value) -> bool) -> Vec<&'static str> {
    options().filter(|opt| has(&value(opt))).map(|opt| opt.flag).collect()
}

fn verbs() -> Vec<&'static str> {
    VERBS.iter().map(|verb| verb.name).collect()
}

/// The operands of `print`: first words, and those that follow the first one.
fn things() -> Vec<(&'static str, &'static str)> {
    let mut things: Vec<_> = PRINTABLE
        .iter()
        .map(|printable| match printable.name.split_once(' ') {
            Some((name, _)) => (name, "what a shell completes"),
            None => (printable.name, printable.help),
        })
        .collect();
    things.dedup_by_key(|thing| thing.0);
    things
}

const SHELLS: &str = "bash zsh fish";

/// The name of a function of a shell's.
fn function(program: &str) -> String {
    format!("_{}", program.replace(['-', '.'], "_"))
}

fn bash(program: &str) -> String {
    let function = function(program);
    let things: Vec<_> = things().into_iter().map(|(name, _)| name).collect();
    let all: Vec<_> = options().map(|opt| opt.flag).chain(["--help", "--version"]).collect();
    let words: String = WORDS
        .iter()
        .map(|(flag, words)| {
            format!(
                "        {flag}) COMPREPLY=($(compgen -W '{}' -- \"$word\")); return ;;\n",
                words.join(" ")
            )
        })
        .collect();
    format!(
        "# Completions for bash: {program} print completions bash > /etc/bash_completion.d/{program}\n\
         {function}() {{\n    \
             local word=${{COMP_WORDS[COMP_CWORD]}} last=${{COMP_WORDS[COMP_CWORD-1]}}\n    \
             COMPREPLY=()\n    \
             case $last in\n        \
                 {files}) compopt -o default; return ;;\n\
         {words}        \
                 {others}) return ;;\n    \
             esac\n    \
             case $COMP_CWORD,${{COMP_WORDS[1]}},${{COMP_WORDS[2]}},$word in\n        \
                 *,*,*,-*) COMPREPLY=($(compgen -W '{all}' -- \"$word\")) ;;\n        \
                 1,*) COMPREPLY=($(compgen -W '{verbs}' -- \"$word\")) ;;\n        \
                 2,{PRINT},*) COMPREPLY=($(compgen -W '{things}' -- \"$word\")) ;;\n        \
                 3,{PRINT},completions,*) COMPREPLY=($(compgen -W '{SHELLS}' -- \"$word\")) ;;\n    \
             esac\n\
         }}\n\
         complete -F {function} {program}\n",
        files = flags(|value| matches!(value, Value::File)).join("|"),
        others = flags(|value| matches!(value, Value::Other)).join("|"),
        all = all.join(" "),
        verbs = verbs().join(" "),
        things = things.join(" "),
    )
}

fn zsh(program: &str) -> String {
    let function = function(program);
    // In single quotes; the help of an option stands in brackets.
    let quoted = |text: &str| text.replace('\'', "'\\''");
    let in_brackets = |text: &str| quoted(text).replace('[', "\\[").replace(']', "\\]");
    let described = |pairs: Vec<(&str, &str)>| {
        let pairs = pairs.iter().map(|(name, help)| format!("'{name}:{}'", quoted(help)));
        pairs.collect::<Vec<_>>().join(" ")
    };
    let options: String = options()
        .map(|opt| {
            let many = if opt.occurrence == Occurrence::Once { "" } else { "*" };
            let value = match value(opt) {
                Value::Nothing => String::new(),
                Value::File => format!(":{}:_files", opt.value),
                Value::Words(words) => format!(":{}:({})", opt.value, words.join(" ")),
                Value::Other => format!(":{}: ", in_brackets(opt.value).replace(':', "\\:")),
            };
            format!("        '{many}{}[{}]{value}' \\\n", opt.flag, in_brackets(opt.help))
        })
        .collect();
    format!(
        "#compdef {program}\n\
         # Completions for zsh: {program} print completions zsh > \"${{fpath[1]}}/_{program}\"\n\
         {function}() {{\n    \
             local curcontext=$curcontext state line\n    \
             local -a commands=({commands}) things=({things})\n    \
             _arguments -C \\\n        \
                 '1: :->command' '2: :->thing' '3: :->shell' \\\n\
         {options}        \
                 '(-h --help)'{{-h,--help}}'[the help]' '(-V --version)'{{-V,--version}}'[the version]'\n    \
             case $state in\n        \
                 command) _describe command commands ;;\n        \
                 thing) [[ $words[2] == {PRINT} ]] && _describe thing things ;;\n        \
                 shell) [[ $words[3] == completions ]] && _values shell {SHELLS} ;;\n    \
             esac\n\
         }}\n\
         if [[ $funcstack[1] == _{program} ]]; then {function} \"$@\"; else compdef {function} {program}; fi\n",
        commands = described(VERBS.iter().map(|verb| (verb.name, verb.help)).collect()),
        things = described(things()),
    )
}

fn fish(program: &str) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let mut text = format!(
        "# Completions for fish: {program} print completions fish > ~/.config/fish/completions/{program}.fish\n\
         complete -c {program} -f\n"
    );
    for verb in VERBS {
        let help = quoted(verb.help);
        text.push_str(&format!(
            "complete -c {program} -n __fish_use_subcommand -a {} -d {help}\n",
            verb.name
        ));
    }
    let has = "__fish_seen_subcommand_from";
    let after_print = quoted(&format!("{has} {PRINT}; and not {has} completions"));
    for (name, help) in things() {
        text.push_str(&format!("complete -c {program} -n {after_print} -a {name} -d {}\n", quoted(help)));
    }
    text.push_str(&format!("complete -c {program} -n '{has} completions' -a '{SHELLS}'\n"));
    for opt in options() {
        let value = match value(opt) {
            Value::Nothing => String::new(),
            Value::File => " -r -F".to_owned(),
            Value::Words(words) => format!(" -x -a '{}'", words.join(" ")),
            Value::Other => " -x".to_owned(),
        };
        text.push_str(&format!(
            "complete -c {program} -l {}{value} -d {}\n",
            &opt.flag[2..],
            quoted(opt.help)
        ));
    }
    text.push_str(&format!(
        "complete -c {program} -s h -l help -d 'the help'\ncomplete -c {program} -s V -l version -d 'the version'\n"
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_options() {
        for (flag, _) in WORDS {
            assert!(options().any(|opt| opt.flag == flag), "{flag}");
        }
    }
}
