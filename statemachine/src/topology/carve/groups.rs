//! Divides a network among the groups of its map, level by level.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use ipnet::IpNet;

use super::super::spec::{DeclaredHost, GroupSpec};
use super::{Group, Network, bound};
use crate::command::Labels;
use crate::limits::{GROUP_DEPTH_MAX, GROUPS_MAX};
use crate::name::HostName;
use crate::prefix;
use crate::refusal::Refusal;

/// Walks one map for one network.
struct Carver<'a> {
    network: &'a mut Network,
    /// Hosts found on the way, and the index of their group.
    hosts: Vec<(DeclaredHost, usize)>,
}

/// The group being divided.
#[derive(Clone)]
struct Level {
    cidr: IpNet,
    parent: Option<usize>,
    depth: usize,
    requires: Labels,
    /// For messages: names or positions from the root to this level.
    path: String,
}

/// Carves a network by its map. Returns the hosts that the map declares, and the index of the group of each.
pub(super) fn carve(
    network: &mut Network,
    map: &[GroupSpec],
) -> Result<Vec<(DeclaredHost, usize)>, Refusal> {
    let mut carver = Carver { network, hosts: Vec::new() };
    carver.map(map)?;
    Ok(carver.hosts)
}

impl Carver<'_> {
    fn map(&mut self, map: &[GroupSpec]) -> Result<(), Refusal> {
        let level = Level {
            cidr: self.network.cidr,
            parent: None,
            depth: 0,
            requires: Labels::new(),
            path: String::from("map"),
        };
        if all_hosts(map, &level.path)? {
            // A map that lists hosts is a single group with these hosts.
            let group = GroupSpec { hosts: Some(map.to_vec()), ..GroupSpec::default() };
            return self.groups(core::slice::from_ref(&group), &level);
        }
        self.groups(map, &level)
    }

    /// Carves a level of groups, padded to a power of two.
    fn groups(&mut self, groups: &[GroupSpec], level: &Level) -> Result<(), Refusal> {
        let groups: Vec<_> = groups.iter().filter(|group| group.dummy != Some(true)).collect();
        let padded = groups.len().next_power_of_two();
        let bits = padded.trailing_zeros();
        let len = u32::from(level.cidr.prefix_len()) + bits;
        let fits = len <= u32::from(self.network.block_mask);
        let Some(len) = u8::try_from(len).ok().filter(|_| fits) else {
            return Err(Refusal::TooManyGroups {
                network: self.network.name.clone(),
                groups: padded as u64,
                cidr: level.cidr,
                block_mask: self.network.block_mask,
            });
        };
        if level.depth >= GROUP_DEPTH_MAX {
            return Err(Refusal::GroupsTooDeep { max: GROUP_DEPTH_MAX as u64 });
        }
        bound("groups of a network", self.network.groups.len() + padded, GROUPS_MAX)?;
        for position in 0..padded {
            let cidr = prefix::subnet(level.cidr, len, position as u128);
            match groups.get(position) {
                Some(group) => self.group(group, position, cidr, level)?,
                None => self.network.groups.push(Group {
                    name: None,
                    cidr,
                    parent: level.parent,
                    requires: level.requires.clone(),
                    leaf: true,
                    padding: true,
                }),
            }
        }
        Ok(())
    }

    fn group(
        &mut self,
        spec: &GroupSpec,
        position: usize,
        cidr: IpNet,
        above: &Level,
    ) -> Result<(), Refusal> {
        let shown = spec.name.clone().unwrap_or_else(|| position.to_string());
        let path = format!("{}/{}", above.path, shown.chars().take(64).collect::<String>());
        let content = content(spec, &path)?;
        let mut requires = above.requires.clone();
        requires.extend(spec.assignment.iter().map(|(key, value)| (key.clone(), value.clone())));
        crate::labels::check(&requires)?;
        let at = self.network.groups.len();
        let leaf = !matches!(content, Content::Groups(_));
        self.network.groups.push(Group {
            name: spec.name.clone(),
            cidr,
            parent: above.parent,
            requires: requires.clone(),
            leaf,
            padding: false,
        });
        match content {
            Content::Empty => Ok(()),
            Content::Hosts(hosts) => hosts.iter().try_for_each(|host| {
                self.hosts.push((declared_host(host, &path)?, at));
                Ok(())
            }),
            Content::Groups(groups) => {
                let depth = above.depth + 1;
                self.groups(groups, &Level { cidr, parent: Some(at), depth, requires, path })
            }
        }
    }
}

/// The content of a group.
enum Content<'a> {
    Empty,
    Hosts(&'a [GroupSpec]),
    Groups(&'a [GroupSpec]),
}

fn content<'a>(spec: &'a GroupSpec, path: &str) -> Result<Content<'a>, Refusal> {
    let refuse = |why: &str| Err(invalid(path, why));
    if spec.name.as_ref().is_some_and(|name| name.len() > 253 || name.chars().any(char::is_control))
    {
        return refuse("its name is longer than 253 bytes or has control characters");
    }
    if spec.routing.as_ref().is_some_and(|routing| routing.len() > 1024) {
        return refuse("its routing is longer than 1024 bytes");
    }
    if spec.labels.is_some() || !spec.addresses.is_empty() {
        return refuse("it has labels or addresses, which only a host has (one with an ip)");
    }
    let groups = spec.groups.as_deref().unwrap_or_default();
    let hosts = spec.hosts.as_deref().unwrap_or_default();
    match (groups, hosts) {
        ([], []) => Ok(Content::Empty),
        (groups, []) if all_hosts(groups, path)? => Ok(Content::Hosts(groups)),
        (groups, []) => Ok(Content::Groups(groups)),
        ([], hosts) if all_hosts(hosts, path)? => Ok(Content::Hosts(hosts)),
        ([], _) => refuse("hosts has an element without an ip"),
        _ => refuse("it has both groups and hosts"),
    }
}

/// Whether a list contains hosts. A mixed list is refused: 2.0 decided by the first element.
fn all_hosts(list: &[GroupSpec], path: &str) -> Result<bool, Refusal> {
    let hosts = list.iter().filter(|element| element.is_host()).count();
    if hosts != 0 && hosts != list.len() {
        return Err(invalid(path, "it mixes hosts (with an ip) and groups"));
    }
    Ok(hosts != 0)
}

fn declared_host(spec: &GroupSpec, path: &str) -> Result<DeclaredHost, Refusal> {
    let (Some(name), Some(ip)) = (&spec.name, spec.ip) else {
        return Err(invalid(path, "a host has both a name and an ip"));
    };
    if spec.groups.as_ref().is_some_and(|groups| !groups.is_empty())
        || spec.hosts.as_ref().is_some_and(|hosts| !hosts.is_empty())
    {
        return Err(invalid(path, "a host has groups or hosts inside"));
    }
    let name = HostName::from(name.as_str());
    name.check()?;
    // Romana 2.0 prints a host's labels as its assignment.
    let assignment = (!spec.assignment.is_empty()).then(|| spec.assignment.clone());
    let labels = spec.labels.clone().or(assignment);
    Ok(DeclaredHost { name, ip, addresses: spec.addresses.clone(), labels })
}

fn invalid(group: &str, why: &str) -> Refusal {
    Refusal::InvalidGroup { group: group.to_string(), why: why.to_string() }
}
