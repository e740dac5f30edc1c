//! The token that agents must show, and the certificate that the gateway shows: what may change while it runs.

use std::path::PathBuf;
use std::sync::{RwLock, RwLockReadGuard};

use log::{error, info};
use tunnel_agent::Token;
use tunnel_agent::link::tls::{self, ServerTls, TlsError};

/// Both, as they are now.
pub struct Credentials {
    token_file: Option<PathBuf>,
    /// The certificate's file, and its key's.
    tls_files: Option<(PathBuf, PathBuf)>,
    current: RwLock<Current>,
}

struct Current {
    token: Option<Token>,
    tls: Option<ServerTls>,
}

impl Credentials {
    pub fn new(
        token: Option<Token>,
        token_file: Option<PathBuf>,
        tls_files: Option<(PathBuf, PathBuf)>,
    ) -> Result<Self, TlsError> {
        let tls = tls_files.as_ref().map(|(certificates, key)| tls::server(certificates, key)).transpose()?;
        Ok(Credentials { token_file, tls_files, current: RwLock::new(Current { token, tls }) })
    }

    fn current(&self) -> RwLockReadGuard<'_, Current> {
        // Nothing panics while the lock is held.
        self.current.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn token(&self) -> Option<Token> {
        self.current().token.clone()
    }

    pub fn tls(&self) -> Option<ServerTls> {
        self.current().tls.clone()
    }

    /// Reads the files again. One that cannot be used changes nothing.
    pub fn reload(&self) {
        let token = self.token_file.as_deref().map(|path| (path, Token::from_file(path)));
        let tls = self.tls_files.as_ref().map(|(certificates, key)| tls::server(certificates, key));
        let mut current = self.current.write().unwrap_or_else(|poisoned| poisoned.into_inner());
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
                info!("read the certificate again");
            }
            Some(Err(why)) => error!("the certificate stays as it was: {why}"),
        }
    }
}
