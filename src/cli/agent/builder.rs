//! From the options of the agent to its builder.

use super::config_file::{ConfigFile, Section, is_of_agent};
use super::{PREFIX, Task, own_id};
use crate::agent::addresses;
use crate::agent::options::find;
use crate::cli::options::{Given, Options, Provenance};
use crate::cli::table::distance;
use crate::cli::{UsageError, flag};
use crate::{
    Agent, Builder, ConfigProblem, GatewayUrl, InvalidGatewayUrl, InvalidHeader, InvalidTunnelId, Rule,
};

/// A tunnel ID for tasks that dial no gateway.
const PLACEHOLDER_ID: &str = "agent_00000000-0000-0000-0000-000000000000_nobody";

/// What the log is told of a configuration.
#[derive(Debug, Default)]
pub(super) struct Remarks {
    pub(super) warnings: Vec<String>,
    pub(super) notes: Vec<String>,
}

/// Where the tunnel ID comes from when none is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MissingId<'a> {
    /// From a file of the user's, which is made if there is none; that of a section has its name.
    Kept(Option<&'a str>),
    /// It is asked for, where a gateway is dialled.
    Asked,
}

/// The builder that the options and a file describe.
pub(super) fn builder(
    options: &mut Options<'static>,
    file: Option<ConfigFile>,
    (task, missing): (&Task, MissingId<'_>),
    remarks: &mut Remarks,
) -> Result<Builder, UsageError> {
    let sections = match file {
        None => Vec::new(),
        Some(file) => {
            remarks.notes.push(format!("options are read from {}", file.path.display()));
            remarks.warnings.extend(file.warning());
            options.add(file.common);
            file.sections
        }
    };
    options.check()?;
    let Some((first, others)) = sections.split_first() else {
        return tunnel(options, (task, missing), remarks);
    };
    // What is given outside of the file cannot say which tunnel it means.
    options.forget_bare_where(|opt| !is_of_agent(opt));
    if let Some(given) =
        options.effective().find(|given| given.from < Provenance::File && !is_of_agent(given.opt))
    {
        let text = "is one tunnel's, and the file has several: give it in a section, or read no file with --config none";
        return Err(UsageError(format!("{} {text}", given.source)));
    }
    let is_own = |given: &&Given<'_>| matches!(given.opt.name, "name" | "tunnel_id" | "tunnel_id_file");
    if let Some(given) = options.effective().find(is_own) {
        return Err(UsageError(format!("{} is one tunnel's: give it in its section", given.source)));
    }
    let builder = section(options.clone(), first, task, remarks)?;
    let common = options.without(|given| is_of_agent(given.opt) && given.opt.name != "drain");
    let mut all = builder;
    for other in others {
        all = all.tunnel(section(common.clone(), other, task, remarks)?);
    }
    Ok(all)
}

/// The builder of a section, beside what holds for all.
fn section(
    mut options: Options<'static>,
    section: &Section,
    task: &Task,
    remarks: &mut Remarks,
) -> Result<Builder, UsageError> {
    options.add(section.given.iter().cloned());
    options.check()?;
    let mut builder = tunnel(&mut options, (task, MissingId::Kept(Some(&section.name))), remarks)?;
    if options.text("--name").is_none() {
        let invalid = |error| {
            UsageError(format!("{}: [tunnel …] is the tunnel's name: {}", section.source, problem(error)))
        };
        builder.set("name", &section.name).map_err(invalid)?;
    }
    Ok(builder)
}

/// The builder of one tunnel.
fn tunnel(
    options: &mut Options<'static>,
    (task, missing): (&Task, MissingId<'_>),
    remarks: &mut Remarks,
) -> Result<Builder, UsageError> {
    leave_what_is_of_others(options, remarks)?;
    let placeholder = PLACEHOLDER_ID.parse();
    let id = placeholder.map_err(|error: InvalidTunnelId| UsageError(error.to_string()))?;
    let mut builder = Agent::builder(id);
    for given in options.effective() {
        let Some(option) = find(given.opt.name) else { continue };
        builder.set(option.name, &given.text).map_err(|error| {
            let what = problem(error);
            let hint = hint(option.name, &what);
            options.error(given, what + hint)
        })?;
    }
    let has_id = options.effective().any(|given| given.opt.setting == "tunnel_id");
    match missing {
        _ if has_id => {}
        MissingId::Kept(name) => {
            let (id, note) = own_id::own_id(name, &|name| std::env::var_os(name))?;
            builder.tunnel_id = id;
            remarks.notes.push(note);
        }
        MissingId::Asked if matches!(task, Task::Serve | Task::Check) => {
            let text = "which tunnel? Give --tunnel-id agent_{uuid}_{purpose} (or the variable TUNNEL_ID), or the \
                        address of a local server alone, such as 8000, for a tunnel of yours";
            return Err(UsageError(text.to_owned()));
        }
        MissingId::Asked => {}
    }
    for rule in builder.rules.iter() {
        remarks.warnings.extend(rule.pattern.methods().filter_map(|method| misspelt(method, rule)));
    }
    Ok(builder)
}

/// Forgets variables that are probably another program's.
fn leave_what_is_of_others(options: &mut Options<'static>, remarks: &mut Remarks) -> Result<(), UsageError> {
    // A token that may be another program's does not go out unencrypted.
    let gateways = options.read_all("--gateway", |text| addresses::gateway_url(text).parse::<GatewayUrl>());
    let exposed = gateways.iter().find(|url| !url.is_secure() && !url.is_loopback());
    for (key, variable) in [("TOKEN", "TOKEN"), ("--token-file", "TOKEN_FILE")] {
        if let Some(url) = exposed.filter(|_| options.is_bare(key)) {
            options.forget_bare(key);
            remarks.warnings.push(format!(
                "the variable {variable} was not taken: {url} would get it unencrypted, and it may be another program's; \
                 name it {PREFIX}{variable}, or use --token-file"
            ));
        }
    }
    if options.text("--admin").is_none() {
        options.forget_bare("ADMIN_TOKEN");
        options.forget_bare("--admin-token-file");
    }
    Ok(())
}

/// What an option of the builder is called on the command line.
pub(super) fn option_name(option: &str) -> String {
    match option {
        "sessions_per_gateway" => "--connections".to_owned(),
        "handover_drain" => "--drain".to_owned(),
        "max_enveloped_body" => "--max-body".to_owned(),
        "max_streamed_body" => "--max-stream-body".to_owned(),
        "rules" => "--allow, --deny".to_owned(),
        "gateway_trust" => "--ca-file".to_owned(),
        "local_trust" => "--local-ca-file".to_owned(),
        "admin_token" => "a token for --admin (--admin-token-file, ADMIN_TOKEN)".to_owned(),
        _ => flag(option),
    }
}

/// What is wrong with a value, without the option's name.
fn problem(error: crate::ConfigError) -> String {
    match error.problem() {
        ConfigProblem::Invalid(what) => what.clone(),
        _ => error.to_string(),
    }
}

/// What to type in place of a value that is wrong in this way.
fn hint(option: &str, what: &str) -> &'static str {
    let is = |error: &dyn ToString| error.to_string() == what;
    match option {
        "gateway" if is(&InvalidGatewayUrl::UserInfo) || is(&InvalidGatewayUrl::Query) => {
            "; give a token with --token-file or the variable TOKEN"
        }
        "set_header" | "remove_header" if is(&InvalidHeader::Host) => ", --host-header",
        _ => "",
    }
}

/// What the log says of a method that looks like a misspelt one: its rule would match nothing.
fn misspelt(method: &str, rule: &Rule) -> Option<String> {
    const USUAL: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"];
    let method = method.to_ascii_uppercase();
    let meant = USUAL.iter().map(|usual| (distance(usual, &method), usual)).min();
    let (_, meant) = meant.filter(|(edits, _)| (1..=2).contains(edits) && method.len() > 2)?;
    // WebDAV's, which are near to these (RFC 4918, RFC 5323).
    let is_known = ["COPY", "MOVE", "LOCK", "BIND"].contains(&method.as_str());
    (!is_known).then(|| format!("the rule `{rule}` names the method {method}; did you mean {meant}?"))
}
