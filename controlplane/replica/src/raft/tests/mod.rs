//! Replicas in one process, on loopback and real disks; and openraft's own suite for storage.

mod clocks;
mod cluster;
mod damage;
mod files;
mod hostile;
mod older;
mod restore;
mod retention;
mod storage;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::Instant;

use super::{ProposeError, Replica, ReplicaConfig, StartError, Tuning};
use crate::testing::{Cluster, PATIENCE, create, eventually, has, soon, tenant};
