//! From the options of the agent to its builder.

use std::path::Path;

use super::PREFIX;
use super::config_file::{ConfigFile, Section, is_of_agent, is_readable_by_others};
use super::own_id::{self, Keeping, KeptAs};
use crate::agent::addresses;
use crate::agent::options::{Secrecy, find};
use crate::cli::options::{Given, Options, Provenance};
use crate::cli::table::distance;
use crate::cli::{UsageError, flag};
use crate::{
    Agent, Builder, ConfigError, ConfigProblem, GatewayUrl, InvalidGatewayUrl, InvalidHeader,
    InvalidTunnelId, Proxies, Rule, TunnelName,
};

/// The notes on a configuration for the log.
#[derive(Debug, Default)]
pub(super) struct Remarks {
    pub(super) warnings: Vec<String>,
    pub(super) notes: Vec<String>,
}

/// Where the tunnel ID comes from when none is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum MissingId {
    /// From a file of the user's, which is made if there is none: one for each name, or each address that was typed.
    Kept(String),
    /// It is asked for, where a gateway is dialled.
    Asked,
}

/// One tunnel of a configuration.
#[derive(Debug)]
struct TunnelOptions {
    /// The section's name.
    name: Option<String>,
    builder: Builder,
    options: Options<'static>,
    has_id: bool,
}

/// A configuration: one tunnel, or one for each section of a file; one at least. It is judged as a whole by its builder.
#[derive(Debug)]
pub(super) struct Configuration(Vec<TunnelOptions>);

impl Configuration {
    /// Reads the tunnels that the options and a file describe.
    pub(super) fn read(
        mut options: Options<'static>,
        file: Option<ConfigFile>,
        remarks: &mut Remarks,
    ) -> Result<Self, UsageError> {
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
        if sections.is_empty() {
            return Ok(Configuration(vec![TunnelOptions::read(None, options, remarks)?]));
        }
        // An option outside of the file cannot say which tunnel it means.
        let is_outside = |given: &&Given<'_>| given.from < Provenance::File && !is_of_agent(given.opt);
        if let Some(given) = options.effective().find(is_outside) {
            let text = "is one tunnel's, and the file has sections: give it in one, or read no file with --config none";
            return Err(UsageError(format!("{} {text}", given.source)));
        }
        let is_own = |given: &&Given<'_>| matches!(given.opt.name, "name" | "tunnel_id" | "tunnel_id_file");
        if let Some(given) = options.effective().find(is_own) {
            return Err(UsageError(format!("{} is one tunnel's: give it in its section", given.source)));
        }
        // The first has what is the agent's, too.
        let common = options.without(|given| is_of_agent(given.opt) && given.opt.name != "drain");
        let mut tunnels: Vec<TunnelOptions> = Vec::new();
        for section in &sections {
            let options = if tunnels.is_empty() { &options } else { &common };
            tunnels.push(section_options(options.clone(), section, remarks)?);
        }
        Ok(Configuration(tunnels))
    }

    /// The builder of all tunnels.
    pub(super) fn builder(&self) -> Builder {
        let others = self.0[1..].iter().map(|tunnel| tunnel.builder.clone());
        others.fold(self.0[0].builder.clone(), Builder::tunnel)
    }

    /// Whether a tunnel has no ID.
    pub(super) fn lacks_id(&self) -> bool {
        self.0.iter().any(|tunnel| !tunnel.has_id)
    }

    /// Gives the tunnels without an ID the one that is kept for them, or a new one. Two sites never share one: their
    /// visitors would get either.
    pub(super) fn find_ids(
        &mut self,
        missing: &MissingId,
        keeping: Keeping,
        remarks: &mut Remarks,
    ) -> Result<(), UsageError> {
        for tunnel in self.0.iter_mut().filter(|tunnel| !tunnel.has_id) {
            let name = tunnel.builder.name.as_ref().map(ToString::to_string);
            let kept_as = match (&tunnel.name, missing) {
                (Some(section), _) => KeptAs::Name(section.clone()),
                (None, MissingId::Kept(address)) => {
                    name.map_or_else(|| KeptAs::Address(address.clone()), KeptAs::Name)
                }
                (None, MissingId::Asked) => {
                    let text = "which tunnel? Give --tunnel-id agent_{uuid}_{purpose} (or the variable TUNNEL_ID), or \
                                the address of a local server alone, such as 8000, for a tunnel of yours";
                    return Err(UsageError(text.to_owned()));
                }
            };
            let own = own_id::own_id(&kept_as, keeping, &|name| std::env::var_os(name))?;
            tunnel.builder.tunnel_id = own.id;
            remarks.notes.push(own.note);
            // The gateway would keep the name for an ID that no tunnel has.
            if !own.is_kept {
                tunnel.builder.name = None;
            }
        }
        Ok(())
    }

    /// A configuration that the library refuses, with the places in which its options were given.
    pub(super) fn named(&self, error: &ConfigError) -> UsageError {
        let text = crate::cli::config_error(error, option_name);
        let of_tunnel = self.0.iter().find(|tunnel| tunnel.label().as_deref() == error.tunnel());
        let UsageError(text) = of_tunnel.unwrap_or(&self.0[0]).options.naming_places(&text);
        match of_tunnel.and_then(|tunnel| tunnel.name.as_ref()) {
            Some(name) => UsageError(format!("[tunnel {name}]: {text}")),
            None => UsageError(text),
        }
    }

    /// The first tunnel's options, with those of the agent.
    pub(super) fn options(&self) -> &Options<'static> {
        &self.0[0].options
    }
}

impl TunnelOptions {
    fn read(
        name: Option<&str>,
        mut options: Options<'static>,
        remarks: &mut Remarks,
    ) -> Result<Self, UsageError> {
        leave_what_is_of_others(&mut options, remarks);
        // A placeholder until it has its own; no two are equal.
        let id = own_id::new_id(name).parse();
        let mut builder = Agent::builder(id.map_err(|error: InvalidTunnelId| UsageError(error.to_string()))?);
        builder.proxies = Proxies::from_environment();
        for given in options.effective() {
            let Some(option) = find(given.opt.name) else { continue };
            builder.set(option.name, &given.text).map_err(|error| {
                let what = problem(error);
                let hint = hint(option.name, &what);
                options.error(given, what + hint)
            })?;
        }
        let is_typed_proxy =
            |given: &&Given<'_>| given.opt.name == "proxy" && given.from == Provenance::CommandLine;
        let typed = options.effective().find(is_typed_proxy);
        if let Some(given) = typed.filter(|_| builder.proxies.have_credentials()) {
            let text = "every user of this machine can read a password there: give the proxy in the variable \
                        TUNNEL_AGENT_PROXY or in the configuration file";
            return Err(options.error(given, text));
        }
        let is_of_secret = |given: &&Given<'_>| {
            find(given.opt.name).is_some_and(|option| option.secrecy == Secrecy::SecretFile)
        };
        for given in options.effective().filter(is_of_secret) {
            if is_readable_by_others(Path::new(&given.text)) {
                remarks.warnings.push(format!(
                    "{}: {} holds a credential, and others can read it: chmod 600",
                    given.source, given.text
                ));
            }
        }
        let has_id = options.effective().any(|given| given.opt.setting == "tunnel_id");
        for rule in builder.rules.iter() {
            remarks.warnings.extend(rule.pattern.methods().filter_map(|method| misspelt(method, rule)));
        }
        Ok(TunnelOptions { name: name.map(str::to_owned), builder, options, has_id })
    }

    /// The tunnel's label among several.
    fn label(&self) -> Option<String> {
        self.name.as_ref()?;
        self.builder.name.as_ref().map(ToString::to_string)
    }
}

/// The options of a section, beside what holds for all.
fn section_options(
    mut options: Options<'static>,
    section: &Section,
    remarks: &mut Remarks,
) -> Result<TunnelOptions, UsageError> {
    options.add(section.given.iter().cloned());
    options.check()?;
    let title: Result<TunnelName, _> = section.name.parse();
    let title =
        title.map_err(|error| UsageError(format!("{}: the name of a tunnel: {error}", section.source)))?;
    let mut tunnel = TunnelOptions::read(Some(&section.name), options, remarks)?;
    tunnel.builder.name.get_or_insert(title);
    Ok(tunnel)
}

/// Forgets variables that are probably another program's.
fn leave_what_is_of_others(options: &mut Options<'static>, remarks: &mut Remarks) {
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
}

/// The command line's name of a builder's option.
fn option_name(option: &str) -> String {
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

/// The fault of a value, without the option's name.
fn problem(error: ConfigError) -> String {
    match error.problem() {
        ConfigProblem::Invalid(what) => what.clone(),
        _ => error.to_string(),
    }
}

/// An example of a right value in place of one that is wrong in this way.
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

/// A warning of a method that looks like a misspelt one: its rule would match nothing.
fn misspelt(method: &str, rule: &Rule) -> Option<String> {
    const USUAL: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"];
    let method = method.to_ascii_uppercase();
    let meant = USUAL.iter().map(|usual| (distance(usual, &method), usual)).min();
    let (_, meant) = meant.filter(|(edits, _)| (1..=2).contains(edits) && method.len() > 2)?;
    // WebDAV's, which are near to these (RFC 4918, RFC 5323).
    let is_known = ["COPY", "MOVE", "LOCK", "BIND"].contains(&method.as_str());
    (!is_known).then(|| format!("the rule `{rule}` names the method {method}; did you mean {meant}?"))
}
