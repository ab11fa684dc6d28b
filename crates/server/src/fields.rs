//! Values for log lines.
//!
//! A field of a log line is a number, a boolean or a text; [`json`] makes any serializable value one
//! more kind. Three field names have a meaning of their own to the program's log layer: `level` and
//! `logger` take the place of the line's own, and the members of an object named `fields` become
//! fields of the line (a tracing event has room for 32 fields only).
//!
//! ```
//! use server::{fields::json, go};
//! # let (urls, took) = (["http://localhost:2379"], std::time::Duration::from_millis(1500));
//! tracing::info!("listen-client-urls" = json(&urls), took = %go::duration(took), "configuring client listeners");
//! ```

use std::fmt;

use serde::Serialize;

/// Starts the debug text of a [`json`] value, and of nothing else: a control character that neither
/// JSON nor any sensible debug text begins with.
pub const JSON_MARK: char = '\u{1e}';

/// A field's value that is logged as JSON.
pub fn json<T: Serialize + ?Sized>(value: &T) -> tracing::field::DebugValue<Json<'_, T>> {
    tracing::field::debug(Json(value))
}

/// What [`json`] wraps.
pub struct Json<'a, T: ?Sized>(&'a T);

impl<T: Serialize + ?Sized> fmt::Debug for Json<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = serde_json::to_string(self.0).map_err(|_| fmt::Error)?;
        write!(f, "{JSON_MARK}{text}")
    }
}
