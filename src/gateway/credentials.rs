//! The token that agents must show, and the certificates that the gateway shows: what may change while it runs.

use std::path::PathBuf;
use std::sync::{RwLock, RwLockReadGuard};

use http::header::{AUTHORIZATION, HeaderMap};
use log::{error, info};

use crate::link::Token;
use crate::net::tls::{self, ServerTls, TlsError};
use crate::sync::{read, write};

/// Both, as they are now.
pub(super) struct Credentials {
    token_file: Option<PathBuf>,
    /// The files of certificates, each with its key's.
    tls_files: Vec<(PathBuf, PathBuf)>,
    current: RwLock<Current>,
}

struct Current {
    token: Option<Token>,
    tls: Option<ServerTls>,
}

impl Credentials {
    pub(super) fn new(
        token: Option<Token>,
        token_file: Option<PathBuf>,
        tls_files: Vec<(PathBuf, PathBuf)>,
    ) -> Result<Self, TlsError> {
        let tls = server(&tls_files).transpose()?;
        Ok(Credentials { token_file, tls_files, current: RwLock::new(Current { token, tls }) })
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

    pub(super) fn tls(&self) -> Option<ServerTls> {
        self.current().tls.clone()
    }

    /// Reads the files again. One that cannot be used changes nothing.
    pub(super) fn reload(&self) {
        let token = self.token_file.as_deref().map(|path| (path, Token::from_file(path)));
        let tls = server(&self.tls_files);
        let mut current = write(&self.current);
        match token {
            None => {}
            Some((_, Ok(token))) => {
                current.token = Some(token);
                info!("read the token again");
            }
            Some((path, Err(why))) => error!("the token stays as it was: {}: {why}", path.display()),
        }
        match tls {
            None => {}
            Some(Ok(tls)) => {
                current.tls = Some(tls);
                info!("read the certificates again");
            }
            Some(Err(why)) => error!("the certificates stay as they were: {why}"),
        }
    }
}

/// TLS with these files, if there are any.
fn server(files: &[(PathBuf, PathBuf)]) -> Option<Result<ServerTls, TlsError>> {
    (!files.is_empty()).then(|| tls::server(files))
}
