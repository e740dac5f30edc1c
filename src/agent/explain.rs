//! The way of a request through the agent, told without sending it.

use std::fmt;
use std::sync::Arc;

use http::{Method, StatusCode, request};
use tungstenite::Bytes;

use super::Agent;
use super::tunnel::{Tunnel, TunnelSettings};
use crate::guard::{Refusal, failure_status, validate_head};
use crate::mux::RequestHead;
use crate::net::network::Network;
use crate::service::FailureKind;

/// The decision on a request, and the request that the local server would get; see [`Agent::explain`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The tunnel's name, where the agent serves several.
    pub tunnel: Option<String>,
    /// The guards before the rules and the limits after them, a line each, in the order in
    /// which they are applied.
    pub guards: Vec<String>,
    /// The rule that decided, or the lack of one.
    pub decided_by: String,
    /// The outcome.
    pub outcome: ExplainedOutcome,
}

/// The outcome of a request that is explained.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExplainedOutcome {
    /// The agent answers with this status, and this code in the body.
    Refused(StatusCode, &'static str),
    /// The request goes to a local server, with this head if the visitor sent no header field but `Host`.
    Forwarded {
        /// Where it goes.
        url: String,
        /// The request line and the headers.
        head: Vec<String>,
    },
    /// The service of the program that embeds the agent answers.
    Answered,
}

impl Explanation {
    /// Whether the request passes.
    pub fn passes(&self) -> bool {
        !matches!(self.outcome, ExplainedOutcome::Refused(..))
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(tunnel) = &self.tunnel {
            writeln!(f, "tunnel {tunnel}")?;
        }
        self.guards.iter().try_for_each(|guard| writeln!(f, "{guard}"))?;
        writeln!(f, "decided by: {}", self.decided_by)?;
        match &self.outcome {
            ExplainedOutcome::Refused(status, code) => writeln!(f, "refused: {} {code}", status.as_u16()),
            ExplainedOutcome::Answered => writeln!(f, "answered by this program"),
            ExplainedOutcome::Forwarded { url, head } => {
                writeln!(f, "forwarded to: {url}")?;
                head.iter().try_for_each(|line| writeln!(f, "  {line}"))
            }
        }
    }
}

impl Agent {
    /// Tells what would become of a request with this method and this path (with its query, perhaps) that has no
    /// headers but `Host`: which rule decides, and what the local server would be sent. Limits of rate and number
    /// are left out. There is an explanation for each tunnel.
    pub fn explain(&self, method: &str, path: &str) -> Vec<Explanation> {
        let explain = |tunnel: &Arc<Tunnel>| {
            let settings = tunnel.settings();
            let headers = vec![("host", Bytes::from_static(b"visitors-host.example"))];
            let explanation = match validate_head(&RequestHead { method, target: path, headers }) {
                Ok(head) => settings.explain_head(head),
                Err(refusal) => refused(refusal.message(), &refusal),
            };
            let (method, path) = (Method::from_bytes(method.as_bytes()).unwrap_or_default(), path);
            let guards = settings.guards(&method, path.split('?').next().unwrap_or_default());
            Explanation { tunnel: settings.source.label.clone(), guards, ..explanation }
        };
        self.core.tunnels().iter().map(explain).collect()
    }
}

impl TunnelSettings {
    /// The effect of each guard on a request, but for the rules.
    fn guards(&self, method: &Method, path: &str) -> Vec<String> {
        let options = &self.source;
        let list =
            |networks: &[Network]| networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let address = match (options.addresses.allow.as_slice(), options.addresses.deny.as_slice()) {
            ([], []) => None,
            ([], deny) => Some(format!("address: all pass but {}", list(deny))),
            (allow, []) => Some(format!("address: none pass but {}", list(allow))),
            (allow, deny) => Some(format!("address: none pass but {}, without {}", list(allow), list(deny))),
        };
        let password =
            options.passwords.as_ref().map(|_| match self.exchange.gate.wants_password(method, path) {
                Ok(true) => "password: asked for".to_owned(),
                Ok(false) => "password: not asked for here, which is open".to_owned(),
                Err(refusal) => format!("password: {}", refusal.message()),
            });
        let cors = options.cors.as_ref().map(|origin| format!("pages of {origin} may read the response"));
        let rate = options.rate.map(|rate| format!("rate: {rate}"));
        address.into_iter().chain(password).chain(cors).chain(rate).collect()
    }

    fn explain_head(&self, head: request::Parts) -> Explanation {
        let gate = &self.exchange.gate;
        let verdict = gate.decide(&head.method, head.uri.path());
        let decided_by = verdict.describe().into_owned();
        if let Err(refusal) = gate.wants_password(&head.method, head.uri.path()) {
            return refused(refusal.message(), &refusal);
        }
        if let Some(refusal) = Refusal::by(&verdict) {
            return refused(decided_by, &refusal);
        }
        let Some(upstreams) = &self.upstreams else {
            return Explanation {
                tunnel: None,
                guards: Vec::new(),
                decided_by,
                outcome: ExplainedOutcome::Answered,
            };
        };
        let method = head.method.clone();
        match upstreams.explain(head) {
            Ok((url, head)) => Explanation {
                tunnel: None,
                guards: Vec::new(),
                decided_by,
                outcome: ExplainedOutcome::Forwarded { url, head: lines(&method, &head) },
            },
            Err(failure) => {
                let status = match failure.kind() {
                    FailureKind::BadRequest => StatusCode::BAD_REQUEST,
                    _ => failure_status(failure.kind()),
                };
                let decided_by = format!("{decided_by}; {failure}");
                let outcome = ExplainedOutcome::Refused(status, failure.kind().code());
                Explanation { tunnel: None, guards: Vec::new(), decided_by, outcome }
            }
        }
    }
}

fn refused(decided_by: String, refusal: &Refusal) -> Explanation {
    let outcome = ExplainedOutcome::Refused(refusal.status(), refusal.code());
    Explanation { tunnel: None, guards: Vec::new(), decided_by, outcome }
}

/// A head as it is sent, a line each.
fn lines(method: &Method, head: &request::Parts) -> Vec<String> {
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut bytes = Vec::new();
    crate::http1::write_request_head(&mut bytes, method, path, &head.headers);
    String::from_utf8_lossy(&bytes).lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rule;

    #[track_caller]
    fn check(rules: &[&str], method: &str, path: &str, expected: &str) {
        let rules: Vec<Rule> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
        let agent = Agent::builder("agent_550e8400-e29b-41d4-a716-446655440000_prod".parse().unwrap())
            .local("http://127.0.0.1:8000/app".parse().unwrap())
            .route("/api", "http://127.0.0.1:9000".parse().unwrap())
            .set_header("X-Env: tunnel".parse().unwrap())
            .rules(rules)
            .build()
            .unwrap();
        assert_eq!(agent.explain(method, path)[0].to_string(), expected);
    }

    #[test]
    fn says_which_rule_decides_and_what_is_sent() {
        check(
            &["deny /admin/**", "allow GET /**"],
            "GET",
            "/x?y=1",
            "decided by: allow GET /**\n\
             forwarded to: http://127.0.0.1:8000/app/x?y=1\n  \
             GET /app/x?y=1 HTTP/1.1\n  \
             host: visitors-host.example\n  \
             x-env: tunnel\n",
        );
        check(
            &["deny /admin/**"],
            "GET",
            "/%61dmin/x",
            "decided by: deny /admin/**\nrefused: 403 filtered\n",
        );
        check(&["deny /x"], "GET", "/a//b", "decided by: an empty segment\nrefused: 400 ambiguous_path\n");
        check(
            &["allow POST /x"],
            "GET",
            "/x",
            "decided by: no rule matches, and some allow: what they do not is denied\nrefused: 403 filtered\n",
        );
    }

    #[test]
    fn says_what_each_guard_asks() {
        let mut builder = Agent::builder("agent_550e8400-e29b-41d4-a716-446655440000_prod".parse().unwrap());
        for (option, text) in [
            ("local", "8000"),
            ("allow-ip", "10.0.0.0/8"),
            ("deny-ip", "10.1.2.3"),
            ("password", "ann:s3cret"),
            ("open", "/hook/**"),
            ("cors", "https://app.example"),
            ("rate", "10/s"),
        ] {
            builder.set(option, text).unwrap();
        }
        let agent = builder.build().unwrap();
        let guards = |path| agent.explain("GET", path).remove(0).guards;
        let asked = [
            "address: none pass but 10.0.0.0/8, without 10.1.2.3/32",
            "password: asked for",
            "pages of https://app.example may read the response",
            "rate: 10/s",
        ];
        assert_eq!(guards("/x"), asked);
        assert_eq!(guards("/hook/x?y")[1], "password: not asked for here, which is open");
        assert!(!agent.explain("GET", "/x")[0].to_string().contains("s3cret"));
    }

    #[test]
    fn says_what_http_does_not_allow() {
        let agent = Agent::builder("agent_550e8400-e29b-41d4-a716-446655440000_prod".parse().unwrap());
        let agent = agent.build().unwrap();
        assert!(!agent.explain("CONNECT", "/")[0].passes());
        assert!(!agent.explain("GET", "x")[0].passes());
        assert!(agent.explain("GET", "/")[0].passes());
    }
}
