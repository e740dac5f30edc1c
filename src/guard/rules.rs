//! Which requests an agent's owner lets through: rules in their order, of which the first that matches decides.
//!
//! Rules look at the decoded path. While there are any, a path that two servers could read in two ways is
//! refused, not rewritten: what a filter normalises and the server behind it does not (or the other way round)
//! is how filters are got around.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use http::Method;

use crate::http1::path::{ambiguity, decode};

/// Most rules of one agent.
pub(crate) const RULES_MAX: usize = 1024;

/// A filter on the method and the path of a request: `GET,POST /api/**`.
///
/// Methods, with commas between them, and a space may come first; without them it is about any. `GET` stands for
/// `HEAD`, too. Methods match in upper and lower case, since some servers do not tell them apart; paths match as they
/// are. In the path a `*` is one segment or a part of one, and `**` is any number of segments, none included. A slash
/// at the end makes no difference, nor do blanks around it all.
///
/// ```
/// let pattern: tunnel_agent::Pattern = "GET /files/*.txt".parse()?;
/// assert_eq!(pattern.to_string(), "GET /files/*.txt");
/// # Ok::<(), tunnel_agent::InvalidPattern>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// Any when there are none.
    methods: Vec<String>,
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    /// With `*` for any run of bytes.
    One(String),
    /// `**`.
    Any,
}

/// The reason why a text is no [`Pattern`] or no [`Rule`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidPattern {
    /// There is no path that begins with a slash.
    Path,
    /// Something before the path is no list of methods.
    Method,
    /// A segment holds `**` and more.
    Stars,
    /// The path can never be a request's: it holds an empty or a dot segment, a query, a backslash, a `;` or a `#`.
    Never,
    /// The path is percent-encoded.
    Encoded,
    /// A rule does not begin with `allow` or `deny`.
    Action,
}

impl fmt::Display for InvalidPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            InvalidPattern::Path => "expected a path that begins with a slash, such as /admin/** or 'GET /admin/**' (in quotes)",
            InvalidPattern::Method => "expected methods with commas and without spaces, such as GET,POST /api/**",
            InvalidPattern::Stars => "** stands for whole segments: write /a/**, not /a**",
            InvalidPattern::Never => {
                "no path that passes has an empty segment, `.`, `..`, `?`, `#`, `;`, a backslash or a control character"
            }
            InvalidPattern::Action => "expected a rule such as: deny /admin/**",
            InvalidPattern::Encoded => "rules see decoded paths: write the characters themselves, without %",
        })
    }
}

impl std::error::Error for InvalidPattern {}

impl FromStr for Pattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        // A blank at an end is in no path, and would have the rule guard nothing.
        let text = text.trim();
        let slash = text.find('/').ok_or(InvalidPattern::Path)?;
        let (methods, path) = text.split_at(slash);
        Ok(Pattern { methods: read_methods(methods)?, segments: read_path(path)? })
    }
}

impl Pattern {
    /// The methods that it names; any method matches where it names none.
    pub fn methods(&self) -> impl Iterator<Item = &str> {
        self.methods.iter().map(String::as_str)
    }
}

fn read_methods(text: &str) -> Result<Vec<String>, InvalidPattern> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let list = text.strip_suffix(' ').ok_or(InvalidPattern::Method)?.trim_end();
    let is_method = |name: &&str| !name.contains('*') && Method::from_bytes(name.as_bytes()).is_ok();
    let methods = list.split(',').map(|name| Some(name).filter(is_method).map(str::to_owned));
    methods.collect::<Option<_>>().ok_or(InvalidPattern::Method)
}

fn read_path(path: &str) -> Result<Vec<Segment>, InvalidPattern> {
    if path.contains('%') {
        return Err(InvalidPattern::Encoded);
    }
    if ambiguity(path.as_bytes(), path.as_bytes()).is_some() {
        return Err(InvalidPattern::Never);
    }
    let read = |segment: &str| match segment {
        "**" => Ok(Segment::Any),
        other if other.contains("**") => Err(InvalidPattern::Stars),
        other => Ok(Segment::One(other.to_owned())),
    };
    segments(path).map(read).collect()
}

/// The segments of a path, without the empty one behind a slash at its end.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let path = path.strip_suffix('/').unwrap_or(path);
    path.split('/').filter(|segment| !segment.is_empty())
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.methods.is_empty() {
            write!(f, "{} ", self.methods.join(","))?;
        }
        for segment in &self.segments {
            match segment {
                Segment::One(text) => write!(f, "/{text}")?,
                Segment::Any => f.write_str("/**")?,
            }
        }
        if self.segments.is_empty() { f.write_str("/") } else { Ok(()) }
    }
}

impl Pattern {
    fn matches(&self, method: &Method, path: &[&str]) -> bool {
        self.matches_method(method.as_str()) && matches_path(&self.segments, path)
    }

    fn matches_method(&self, method: &str) -> bool {
        let is = |name: &String| {
            name.eq_ignore_ascii_case(method)
                || (name.eq_ignore_ascii_case("GET") && method.eq_ignore_ascii_case("HEAD"))
        };
        self.methods.is_empty() || self.methods.iter().any(is)
    }
}

/// Matches with one place to come back to, the last `**`: never more than pattern times path.
fn matches_path(pattern: &[Segment], path: &[&str]) -> bool {
    let (mut at, mut seen) = (0, 0);
    let mut retry = None;
    loop {
        match pattern.get(at) {
            Some(Segment::Any) => {
                at += 1;
                retry = Some((at, seen));
                continue;
            }
            Some(Segment::One(glob)) if path.get(seen).is_some_and(|segment| matches_glob(glob, segment)) => {
                (at, seen) = (at + 1, seen + 1);
                continue;
            }
            None if seen == path.len() => return true,
            _ => {}
        }
        match retry {
            Some((after, from)) if from < path.len() => {
                retry = Some((after, from + 1));
                (at, seen) = (after, from + 1);
            }
            _ => return false,
        }
    }
}

/// Whether a segment matches, with `*` for any run of bytes. A lone `*` is one whole segment, which is never empty.
fn matches_glob(glob: &str, segment: &str) -> bool {
    let mut parts = glob.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = segment.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(index) => rest = &rest[index + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// The effect of a rule on the requests that it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The request passes.
    Allow,
    /// The request is answered 403.
    Deny,
}

/// A pattern, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The effect.
    pub action: Action,
    /// The requests that it applies to.
    pub pattern: Pattern,
}

impl FromStr for Rule {
    type Err = InvalidPattern;

    /// Reads `allow GET /files/*` or `deny /admin/**`.
    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let (action, pattern) = text.trim().split_once(' ').ok_or(InvalidPattern::Action)?;
        let action = match action {
            "allow" => Action::Allow,
            "deny" => Action::Deny,
            _ => return Err(InvalidPattern::Action),
        };
        Ok(Rule { action, pattern: pattern.trim_start().parse()? })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = if self.action == Action::Allow { "allow" } else { "deny" };
        write!(f, "{action} {}", self.pattern)
    }
}

/// The verdict of the rules on a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// There are no rules.
    NoRules,
    /// This rule decides.
    By(&'a Rule),
    /// No rule matches; the request passes when this is [`Action::Allow`].
    Default(Action),
    /// The path can be read in more than one way; the text says why.
    Ambiguous(&'static str),
}

impl Verdict<'_> {
    /// The rule that decides, or why none does.
    pub(crate) fn describe(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Verdict::NoRules => "no rule is set, so everything passes",
            Verdict::By(rule) => return Cow::Owned(rule.to_string()),
            Verdict::Default(Action::Allow) => "no rule matches, and none allows: it passes",
            Verdict::Default(Action::Deny) => "no rule matches, and some allow: what they do not is denied",
            Verdict::Ambiguous(why) => why,
        })
    }
}

/// The rules of an agent, in order: the first that matches decides. Where none does, the request is denied if any
/// rule is `allow`, and passes otherwise. A path that can be read in more than one way (`//`, `..`, `%2F`, …) is
/// answered 400 as soon as there is a rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

impl From<Vec<Rule>> for Rules {
    fn from(rules: Vec<Rule>) -> Self {
        Rules(rules)
    }
}

impl Rules {
    /// The number of rules.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds a rule behind the others.
    pub(crate) fn push(&mut self, rule: Rule) {
        self.0.push(rule);
    }

    /// The rules in their order.
    #[cfg(feature = "cli")]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.0.iter()
    }

    /// The verdict on a request with this method and this path, as it came, without its query.
    pub fn decide(&self, method: &Method, path: &str) -> Verdict<'_> {
        if self.0.is_empty() {
            return Verdict::NoRules;
        }
        let decoded = match decode(path) {
            Ok(decoded) => decoded,
            Err(why) => return Verdict::Ambiguous(why),
        };
        let segments: Vec<&str> = segments(&decoded).collect();
        match self.0.iter().find(|rule| rule.pattern.matches(method, &segments)) {
            Some(rule) => Verdict::By(rule),
            // Any `allow` rule makes deny the default.
            None if self.0.iter().any(|rule| rule.action == Action::Allow) => Verdict::Default(Action::Deny),
            None => Verdict::Default(Action::Allow),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(lines: &[&str]) -> Rules {
        Rules::from(lines.iter().map(|line| line.parse().unwrap()).collect::<Vec<Rule>>())
    }

    /// `+` passes, `-` is denied, `?` is ambiguous.
    #[track_caller]
    fn check(lines: &[&str], requests: &[(&str, char)]) {
        let rules = rules(lines);
        for (request, expected) in requests {
            let (method, path) = request.split_once(' ').unwrap();
            let verdict = rules.decide(&Method::from_bytes(method.as_bytes()).unwrap(), path);
            let got = match verdict {
                Verdict::NoRules | Verdict::Default(Action::Allow) => '+',
                Verdict::By(Rule { action: Action::Allow, .. }) => '+',
                Verdict::By(_) | Verdict::Default(Action::Deny) => '-',
                Verdict::Ambiguous(_) => '?',
            };
            assert_eq!(got, *expected, "{request} by {lines:?}: {verdict:?}");
        }
    }

    #[test]
    fn without_rules_everything_passes_as_it_is() {
        check(&[], &[("GET /", '+'), ("GET /a%2fb/../%00", '+')]);
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        check(
            &["deny /admin/**", "allow GET /admin/logo.png", "deny POST /"],
            &[("GET /admin/logo.png", '-'), ("GET /other", '-'), ("POST /", '-')],
        );
        check(
            &["allow GET /admin/logo.png", "deny /admin/**", "allow /**"],
            &[("GET /admin/logo.png", '+'), ("POST /admin/logo.png", '-'), ("GET /other", '+')],
        );
    }

    #[test]
    fn any_allow_makes_denial_the_default() {
        check(&["allow /api/**"], &[("GET /api/x", '+'), ("GET /", '-')]);
        check(&["deny /api/**"], &[("GET /api/x", '-'), ("GET /", '+')]);
    }

    #[test]
    fn stars_are_segments_or_parts_of_one() {
        check(
            &["allow /a/*/c", "allow /img-*", "allow /f/*.txt", "allow /x/**/y", "allow /t*-*z"],
            &[
                ("GET /a/b/c", '+'),
                ("GET /a/c", '-'),
                ("GET /a/b/b/c", '-'),
                ("GET /img-1.png", '+'),
                ("GET /img-", '+'),
                ("GET /img-/x", '-'),
                ("GET /f/a.b.txt", '+'),
                ("GET /f/a.txt.exe", '-'),
                ("GET /x/y", '+'),
                ("GET /x/y/y", '+'),
                ("GET /x/1/2/y", '+'),
                ("GET /x/1/2/y/3", '-'),
                ("GET /t1-2z", '+'),
                ("GET /t-z", '+'),
                ("GET /t1z", '-'),
            ],
        );
        check(&["deny /**"], &[("GET /", '-'), ("GET /a/b", '-')]);
        check(&["deny /admin/**"], &[("GET /admin", '-'), ("GET /admin/", '-'), ("GET /administrator", '+')]);
        check(&["deny /*"], &[("GET /", '+'), ("GET /a", '-'), ("GET /a/", '-'), ("GET /a/b", '+')]);
    }

    #[test]
    fn methods_stand_in_a_list() {
        check(
            &["allow GET,POST /", "allow /any"],
            &[
                ("GET /", '+'),
                ("HEAD /", '+'),
                ("head /", '+'),
                ("POST /", '+'),
                ("PUT /", '-'),
                ("PUT /any", '+'),
            ],
        );
        check(&["deny POST,DELETE /**"], &[("post /", '-'), ("Delete /", '-'), ("GET /", '+')]);
    }

    #[test]
    fn ways_around_a_rule_are_closed() {
        check(
            &["deny /admin/**"],
            &[
                // Decoded, it is what it is.
                ("GET /%61dmin", '-'),
                ("GET /%61%64%6d%69%6e/x", '-'),
                ("GET /admin%2Fx", '?'),
                ("GET /admin%5cx", '?'),
                ("GET /x\\..\\admin", '?'),
                ("GET /./admin", '?'),
                ("GET /%2e/admin", '?'),
                ("GET /x/../admin", '?'),
                ("GET /x/%2e%2E/admin", '?'),
                ("GET /x/.%2e/admin", '?'),
                ("GET /x/..", '?'),
                ("GET /admin/.", '?'),
                ("GET //admin", '?'),
                ("GET /x//admin", '?'),
                ("GET /admin//", '?'),
                ("GET /%2561dmin", '?'),
                ("GET /%252e%252e/admin", '?'),
                ("GET /x%252f..%252fadmin", '?'),
                ("GET /admin%00", '?'),
                ("GET /admin%0a", '?'),
                ("GET /admin%7f", '?'),
                ("GET /admin;x", '?'),
                ("GET /admin;/x", '?'),
                ("GET /..;/admin", '?'),
                ("GET /admin%3bx", '?'),
                ("GET /admin%3fx=1", '?'),
                ("GET /admin%3Fx/y", '?'),
                ("GET /admin%23x", '?'),
                ("GET /%c0%afadmin", '?'),
                ("GET /%c0%ae%c0%ae/admin", '?'),
                ("GET /%zzadmin", '?'),
                ("GET /admin%", '?'),
                ("GET /admin%4", '?'),
                // Nothing of these is in doubt.
                ("GET /...", '+'),
                ("GET /.well-known/x", '+'),
                ("GET /100%25", '+'),
                ("GET /a%20b/caf%c3%a9", '+'),
                ("GET /x/", '+'),
                ("GET /", '+'),
            ],
        );
    }

    #[test]
    fn a_pattern_is_decoded_as_the_path_is() {
        check(&["deny /café au lait"], &[("GET /caf%C3%A9%20au%20lait", '-'), ("GET /caf\u{e9}", '+')]);
    }

    #[test]
    fn blanks_around_a_pattern_make_no_difference() {
        for text in ["GET /a b ", " GET /a b", "\tGET /a b\r\n"] {
            assert_eq!(text.parse(), "GET /a b".parse::<Pattern>(), "{text:?}");
        }
    }

    #[test]
    fn patterns_that_can_never_match_are_refused() {
        for (text, error) in [
            ("", InvalidPattern::Path),
            ("admin", InvalidPattern::Path),
            ("GET", InvalidPattern::Path),
            ("GET/admin", InvalidPattern::Method),
            ("GET POST /", InvalidPattern::Method),
            ("GET, POST /", InvalidPattern::Method),
            (",GET /", InvalidPattern::Method),
            ("* /", InvalidPattern::Method),
            ("/a**", InvalidPattern::Stars),
            ("/a/***", InvalidPattern::Stars),
            ("/a//b", InvalidPattern::Never),
            ("/a/../b", InvalidPattern::Never),
            ("/a?b", InvalidPattern::Never),
            ("/a;b", InvalidPattern::Never),
            ("/a#b", InvalidPattern::Never),
            ("/a\\b", InvalidPattern::Never),
            ("/a%20b", InvalidPattern::Encoded),
        ] {
            assert_eq!(text.parse::<Pattern>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn a_pattern_that_backtracks_takes_no_long_time() {
        let pattern = format!("deny {}", "/**/a".repeat(50));
        let path = format!("GET {}/b", "/a".repeat(5000));
        check(&[&pattern], &[(&path, '+')]);
        let glob = format!("deny /{}x", "a*".repeat(50));
        check(&[&glob], &[(&format!("GET /{}", "a".repeat(20_000)), '+')]);
    }
}
