//! The token that agents must show, and the certificates that the gateway shows: what may change while it runs.

use std::path::PathBuf;
use std::sync::{Arc, RwLock, RwLockReadGuard};

use http::header::{AUTHORIZATION, HeaderMap};
use log::{error, info};

use super::door::Door;
use crate::agent::{ConfigError, ConfigProblem};
use crate::link::Token;
use crate::net::tls::{self, ServerTls, TlsError};
use crate::sync::{Replaceable, read, write};

/// The tokens, and the files that hold them.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    /// The token of agents.
    pub(super) token: Option<Token>,
    pub(super) token_file: Option<PathBuf>,
    /// The token of operators.
    pub(super) admin_token: Option<Token>,
    pub(super) admin_token_file: Option<PathBuf>,
}

impl Secrets {
    /// Reads the files, which precede.
    pub(super) fn open(self) -> Result<Self, ConfigError> {
        let read = |option, file: &Option<PathBuf>, token: Option<Token>| match file {
            None => Ok(token),
            Some(path) => Token::from_file(path)
                .map(Some)
                .map_err(|error| ConfigError::new(option, ConfigProblem::File(path.clone(), error))),
        };
        Ok(Secrets {
            token: read("token_file", &self.token_file, self.token)?,
            admin_token: read("admin_token_file", &self.admin_token_file, self.admin_token)?,
            ..self
        })
    }
}

/// Tokens and certificates, as they are now.
pub(super) struct Credentials {
    token_file: Option<PathBuf>,
    admin_token: Arc<Replaceable<Option<Token>>>,
    admin_token_file: Option<PathBuf>,
    tls_files: TlsFiles,
    current: RwLock<Current>,
}

/// The files for TLS.
#[derive(Debug, Default)]
pub(super) struct TlsFiles {
    /// Those of certificates, each with its key's.
    pub(super) certificates: Vec<(PathBuf, PathBuf)>,
    /// The authorities of agents' certificates, which are required where it is given.
    pub(super) client_ca: Option<PathBuf>,
}

struct Current {
    token: Option<Token>,
    tls: Option<DoorsTls>,
}

/// The TLS configuration of each door.
#[derive(Clone)]
struct DoorsTls {
    visitors: ServerTls,
    agents: ServerTls,
}

impl Credentials {
    pub(super) fn new(secrets: Secrets, tls_files: TlsFiles) -> Result<Self, TlsError> {
        let Secrets { token, token_file, admin_token, admin_token_file } = secrets;
        let tls = tls_files.open().transpose()?;
        Ok(Credentials {
            token_file,
            admin_token: Arc::new(Replaceable::new(Arc::new(admin_token))),
            admin_token_file,
            tls_files,
            current: RwLock::new(Current { token, tls }),
        })
    }

    /// The token of operators.
    pub(super) fn admin_token(&self) -> Arc<Replaceable<Option<Token>>> {
        self.admin_token.clone()
    }

    fn current(&self) -> RwLockReadGuard<'_, Current> {
        read(&self.current)
    }

    pub(super) fn token(&self) -> Option<Token> {
        self.current().token.clone()
    }

    /// Whether a request shows the token.
    pub(super) fn are_shown_by(&self, headers: &HeaderMap) -> bool {
        let value = headers.get(AUTHORIZATION);
        value.is_some_and(|value| self.current().token.as_ref().is_some_and(|token| token.is_shown_by(value)))
    }

    /// Whether agents have to show a certificate.
    pub(super) fn want_certificates(&self) -> bool {
        self.tls_files.client_ca.is_some()
    }

    /// Whether connections are encrypted.
    pub(super) fn have_tls(&self) -> bool {
        self.current().tls.is_some()
    }

    /// The TLS configuration of this door, if there is TLS.
    pub(super) fn tls(&self, door: Door) -> Option<ServerTls> {
        let current = self.current();
        let tls = current.tls.as_ref()?;
        Some(if door == Door::Agents { tls.agents.clone() } else { tls.visitors.clone() })
    }

    /// Reads the files again. One that cannot be used changes nothing.
    pub(super) fn reload(&self) {
        let token = self.token_file.as_deref().map(|path| (path, Token::from_file(path)));
        let admin_token = self.admin_token_file.as_deref().map(|path| (path, Token::from_file(path)));
        let tls = self.tls_files.open();
        // Not while a file is read: connections need it.
        let mut current = write(&self.current);
        match token {
            None => {}
            Some((_, Ok(token))) => {
                current.token = Some(token);
                info!("read the token again");
            }
            Some((path, Err(why))) => error!("the token stays as it was: {}: {why}", path.display()),
        }
        match admin_token {
            None => {}
            Some((_, Ok(token))) => drop(self.admin_token.replace(Arc::new(Some(token)))),
            Some((path, Err(why))) => error!("the admin token stays as it was: {}: {why}", path.display()),
        }
        match tls {
            None => {}
            Some(Ok(tls)) => {
                current.tls = Some(tls);
                info!("read the certificates again");
            }
            Some(Err(why)) => error!("certificates and the authorities of agents stay as they were: {why}"),
        }
    }
}

impl TlsFiles {
    /// Reads them, if there are any.
    fn open(&self) -> Option<Result<DoorsTls, TlsError>> {
        (!self.certificates.is_empty()).then(|| {
            let visitors = tls::server(&self.certificates, None)?;
            let own = self.client_ca.as_deref().map(|ca| tls::server(&self.certificates, Some(ca)));
            Ok(DoorsTls { agents: own.transpose()?.unwrap_or_else(|| visitors.clone()), visitors })
        })
    }
}
