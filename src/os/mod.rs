//! The system, by safe calls: privileges, files that only root may read, the pid file.

pub(crate) mod root_files;
pub(crate) mod privileges;
pub(crate) mod privileged_reader;
pub mod pid_file;
