//! System calls by safe wrappers: privileges, files that only root may read or write, the pid file.

pub(crate) mod root_files;
pub(crate) mod privileges;
pub(crate) mod privileged_reader;
pub mod pid_file;
