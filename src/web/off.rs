//! Work that waits for the disk, done elsewhere than where sockets are served.

use super::error::ApiError;

/// Does `work`, such as writing a small file, on a thread that may wait.
pub(super) async fn off<T, E>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, ApiError>
where
    T: Send + 'static,
    E: Into<ApiError> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(Into::into),
        // The service ends.
        Err(_) => Err(ApiError::starting()),
    }
}
