//! The parts of a configuration as it was given.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::error::{ConfigError, ConfigProblem};
use crate::inspect::{Inspector, InspectorConfig};
use crate::link::{SecretFile, SecretSource, Token, UpgradeHeaders};
use crate::service::Service;
use crate::upstream::UpstreamAddress;

/// The parts that all tunnels of an agent share, and that stay as they are while the agent runs.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct ProcessOptions {
    pub(super) workers: Option<usize>,
    pub(super) max_streams: Option<usize>,
    pub(super) max_in_flight: Option<usize>,
    pub(super) queue: usize,
    pub(super) queue_timeout: Duration,
    pub(super) admin: Option<SocketAddr>,
    pub(super) admin_token: Option<Token>,
    pub(super) inspection: Inspection,
}

/// Whether exchanges are recorded, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Inspection {
    /// Whether there is a page that shows them.
    pub(super) page: InspectorPage,
    pub(super) config: InspectorConfig,
    /// The inspector of a program that embeds the agent.
    pub(super) inspector: Option<Inspector>,
}

/// Whether the admin server shows the inspector.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum InspectorPage {
    #[default]
    Hidden,
    Shown,
}

impl Inspection {
    /// The inspector, if exchanges are recorded.
    pub(super) fn inspector(&self) -> Option<Inspector> {
        let is_wanted = self.page == InspectorPage::Shown;
        self.inspector.clone().or_else(|| is_wanted.then(|| Inspector::new(self.config.clone())))
    }
}

impl Default for ProcessOptions {
    fn default() -> Self {
        ProcessOptions {
            workers: None,
            max_streams: None,
            max_in_flight: None,
            queue: 256,
            queue_timeout: Duration::from_secs(10),
            admin: None,
            admin_token: None,
            inspection: Inspection::default(),
        }
    }
}

impl ProcessOptions {
    /// The first option that differs from that of the others, but for the token, which can be renewed.
    pub(super) fn difference(&self, other: &ProcessOptions) -> Option<&'static str> {
        let (ours, theirs) = (&self.inspection, &other.inspection);
        let differences = [
            (self.workers != other.workers, "workers"),
            (self.max_streams != other.max_streams, "max_streams"),
            (self.max_in_flight != other.max_in_flight, "max_in_flight"),
            (self.queue != other.queue, "queue"),
            (self.queue_timeout != other.queue_timeout, "queue_timeout"),
            (self.admin != other.admin, "admin"),
            (ours.config.memory != theirs.config.memory, "inspect_memory"),
            (ours.config.body != theirs.config.body, "inspect_body"),
            (ours.config.hidden != theirs.config.hidden, "inspect_hide"),
            (ours != theirs, "inspect"),
        ];
        differences.into_iter().find(|(differs, _)| *differs).map(|(_, option)| option)
    }
}

/// The source of responses.
#[derive(Clone)]
pub(super) enum Answerer {
    /// Local servers, each with the prefix of its paths.
    Local(Vec<(String, UpstreamAddress)>),
    Service(Arc<dyn Service>),
}

impl PartialEq for Answerer {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Answerer::Local(servers), Answerer::Local(others)) => servers == others,
            (Answerer::Service(service), Answerer::Service(other)) => Arc::ptr_eq(service, other),
            _ => false,
        }
    }
}

/// A secret, or the file that holds it.
#[derive(Clone)]
pub(super) enum SecretOption<T> {
    Value(T),
    File(PathBuf),
}

pub(super) type TokenOption = SecretOption<Token>;
pub(super) type UpgradeHeadersOption = SecretOption<UpgradeHeaders>;

impl<T: SecretFile> SecretOption<T> {
    /// Reads the file, if there is one. `option` is the name of the file's option.
    pub(super) fn open(&self, option: &'static str) -> Result<SecretSource<T>, ConfigError> {
        match self {
            SecretOption::Value(secret) => Ok(SecretSource::Fixed(secret.clone())),
            SecretOption::File(path) => SecretSource::file(path)
                .map_err(|error| ConfigError::new(option, ConfigProblem::File(path.clone(), error))),
        }
    }
}
