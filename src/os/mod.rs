//! The system, by safe calls: privileges, files that only root may read, the pid file.

pub mod root_files;
pub mod privileges;
pub mod privileged_reader;
pub mod pid_file;
