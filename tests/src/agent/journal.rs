//! The log file of a running agent, read as it grows.
//!
//! Decides what a line is: bytes up to a newline. Must not know what lines mean. Invariant: the
//! process writes the file itself, so it can go on when this program has ended, and what it wrote
//! before a crash is there.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::log::LogLine;

/// The part of a log file that one run of a process has written.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// Bytes read that no newline has ended yet.
    rest: Vec<u8>,
    lines: Vec<LogLine>,
}

impl Journal {
    /// Opens the log, adds `headline`, and returns what the process is to write to as well.
    pub(super) fn open(path: &Path, headline: &str) -> Result<(Self, File)> {
        let doing = || format!("open the log {}", path.display());
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(doing)?;
        }
        let mut writer = OpenOptions::new().create(true).append(true).open(path).with_context(doing)?;
        writeln!(writer, "# {headline}").with_context(doing)?;
        let mut file = File::open(path).with_context(doing)?;
        file.seek(SeekFrom::End(0)).with_context(doing)?;
        Ok((Self { path: path.to_owned(), file, rest: Vec::new(), lines: Vec::new() }, writer))
    }

    /// All lines so far.
    pub(super) fn lines(&mut self) -> Result<&[LogLine]> {
        self.file
            .read_to_end(&mut self.rest)
            .with_context(|| format!("read the log {}", self.path.display()))?;
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            self.lines.push(LogLine::new(String::from_utf8_lossy(&line).trim_end().to_owned()));
        }
        Ok(&self.lines)
    }
}
