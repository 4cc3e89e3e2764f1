//! Output that several verbs share.

use indicatif::{ProgressBar, ProgressStyle};

/// A progress bar in bytes, up to `length` if it is known. Shown on a terminal only.
pub(super) fn bytes_bar(length: Option<u64>) -> ProgressBar {
    let template = match length {
        Some(_) => "{bar:40} {bytes} of {total_bytes}  {msg}",
        None => "{spinner} {bytes}  {msg}",
    };
    let bar = length.map_or_else(ProgressBar::no_length, ProgressBar::new);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("━╸ "));
    }
    bar
}
