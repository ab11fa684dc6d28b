//! Who a script calls as: a token that goes with every call.

use std::sync::{Arc, Mutex, PoisonError};

use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// A connection on which all calls are somebody's.
pub type Line = InterceptedService<Channel, Caller>;

/// The token that goes with calls, and the name of the metadata it goes in; one for all clients of a server.
#[derive(Clone, Debug, Default)]
pub struct Caller(Arc<Mutex<Option<(&'static str, AsciiMetadataValue)>>>);

impl Caller {
    /// From now on calls are made with this token, or with none.
    pub fn become_owner_of(&self, token: Option<(&'static str, AsciiMetadataValue)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }
}

impl Interceptor for Caller {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let token = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((key, token)) = token {
            request.metadata_mut().insert(key, token);
        }
        Ok(request)
    }
}
