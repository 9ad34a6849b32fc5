//! The simulated disk's content: what programs see, what is durable, and what lies between the two.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path, PathBuf};

/// Names a file or directory, whatever it is called.
pub(super) type NodeId = u64;

/// The directory that is always there.
pub(super) const ROOT: NodeId = 0;

/// What the system says, as an error number.
pub(super) type Refused = i32;

/// A write that no sync has covered.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) order: u64,
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
}

/// A file's bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct FileNode {
    /// What readers see.
    pub(super) content: Vec<u8>,
    /// What survives whatever happens.
    pub(super) durable: Vec<u8>,
    pub(super) pending: Vec<Pending>,
}

/// A directory's entries.
#[derive(Clone, Debug, Default)]
pub(super) struct DirNode {
    pub(super) entries: BTreeMap<String, NodeId>,
    pub(super) durable: BTreeMap<String, NodeId>,
}

/// A file or a directory.
#[derive(Clone, Debug)]
pub(super) enum Node {
    File(FileNode),
    Dir(DirNode),
}

/// Where an entry stands.
pub(super) type Place = (NodeId, String);

/// A change of entries that no sync of a directory has covered.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) order: u64,
    pub(super) node: NodeId,
    /// Where the node was, unless it is new.
    pub(super) from: Option<Place>,
    /// Where it is now, unless it is gone.
    pub(super) to: Option<Place>,
}

impl Change {
    fn touches(&self, dir: NodeId) -> bool {
        [&self.from, &self.to].into_iter().flatten().any(|(parent, _)| *parent == dir)
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) nodes: BTreeMap<NodeId, Node>,
    pub(super) changes: Vec<Change>,
    /// The order of the next write or change.
    pub(super) order: u64,
    /// Files that are open: they keep their content when they are removed.
    pub(super) open: BTreeMap<NodeId, usize>,
    next: NodeId,
}

impl Disk {
    pub(super) fn new() -> Disk {
        let nodes = BTreeMap::from([(ROOT, Node::Dir(DirNode::default()))]);
        Disk { nodes, changes: Vec::new(), order: 0, open: BTreeMap::new(), next: ROOT + 1 }
    }

    pub(super) fn tick(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    pub(super) fn dir(&self, id: NodeId) -> Result<&DirNode, Refused> {
        match self.nodes.get(&id) {
            Some(Node::Dir(dir)) => Ok(dir),
            Some(Node::File(_)) => Err(libc::ENOTDIR),
            None => Err(libc::ENOENT),
        }
    }

    pub(super) fn dir_mut(&mut self, id: NodeId) -> Result<&mut DirNode, Refused> {
        match self.nodes.get_mut(&id) {
            Some(Node::Dir(dir)) => Ok(dir),
            Some(Node::File(_)) => Err(libc::ENOTDIR),
            None => Err(libc::ENOENT),
        }
    }

    pub(super) fn file(&self, id: NodeId) -> Result<&FileNode, Refused> {
        match self.nodes.get(&id) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Dir(_)) => Err(libc::EISDIR),
            None => Err(libc::ENOENT),
        }
    }

    pub(super) fn file_mut(&mut self, id: NodeId) -> Result<&mut FileNode, Refused> {
        match self.nodes.get_mut(&id) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Dir(_)) => Err(libc::EISDIR),
            None => Err(libc::ENOENT),
        }
    }

    /// The node of a path, if there is one.
    pub(super) fn find(&self, path: &Path) -> Result<NodeId, Refused> {
        names(path)?.iter().try_fold(ROOT, |dir, name| self.dir(dir)?.entries.get(name).copied().ok_or(libc::ENOENT))
    }

    /// The directory that a path's last name is looked for in, and that name.
    pub(super) fn place(&self, path: &Path) -> Result<Place, Refused> {
        let mut names = names(path)?;
        let name = names.pop().ok_or(libc::EBUSY)?;
        let dir = names.iter().try_fold(ROOT, |dir, name| self.dir(dir)?.entries.get(name).copied().ok_or(libc::ENOENT))?;
        self.dir(dir)?;
        Ok((dir, name))
    }

    /// Makes a new node at a place that must be free.
    pub(super) fn add(&mut self, place: Place, node: Node) -> Result<NodeId, Refused> {
        if self.dir(place.0)?.entries.contains_key(&place.1) {
            return Err(libc::EEXIST);
        }
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, node);
        self.change(id, None, Some(place))?;
        Ok(id)
    }

    /// Moves, adds or removes a node's entry, for the programs' eyes; durable later.
    pub(super) fn change(&mut self, node: NodeId, from: Option<Place>, to: Option<Place>) -> Result<(), Refused> {
        if let Some((dir, name)) = &from {
            self.dir_mut(*dir)?.entries.remove(name);
        }
        if let Some((dir, name)) = &to {
            self.dir_mut(*dir)?.entries.insert(name.clone(), node);
        }
        let order = self.tick();
        self.changes.push(Change { order, node, from, to });
        Ok(())
    }

    /// Makes a change durable. A node has one entry at most: wherever it was, it is there no more.
    pub(super) fn settle(&mut self, change: &Change) {
        for node in self.nodes.values_mut() {
            if let Node::Dir(dir) = node {
                dir.durable.retain(|_, at| *at != change.node);
            }
        }
        if let Some((dir, name)) = &change.to
            && let Ok(dir) = self.dir_mut(*dir)
        {
            dir.durable.insert(name.clone(), change.node);
        }
    }

    /// Makes the entries of a directory durable, with all else that befell the nodes concerned, as a journal does.
    pub(super) fn sync_dir(&mut self, id: NodeId) -> Result<(), Refused> {
        self.dir(id)?;
        let concerned: BTreeSet<NodeId> =
            self.changes.iter().filter(|change| change.touches(id)).map(|change| change.node).collect();
        let changes = std::mem::take(&mut self.changes);
        let (now, later) = changes.into_iter().partition(|change| concerned.contains(&change.node));
        self.changes = later;
        let now: Vec<Change> = now;
        now.iter().for_each(|change| self.settle(change));
        self.forget_unreachable();
        Ok(())
    }

    /// Makes a file's bytes durable.
    pub(super) fn sync_file(&mut self, id: NodeId) -> Result<(), Refused> {
        let file = self.file_mut(id)?;
        for write in std::mem::take(&mut file.pending) {
            put(&mut file.durable, write.offset, &write.bytes);
        }
        Ok(())
    }

    /// Bytes of all files that have a name.
    pub(super) fn used(&self) -> u64 {
        self.files().values().map(|id| self.file(*id).map_or(0, |file| file.content.len() as u64)).sum()
    }

    /// The files that have a name, by path.
    pub(super) fn files(&self) -> BTreeMap<PathBuf, NodeId> {
        let mut files = BTreeMap::new();
        let mut dirs = vec![(PathBuf::from("/"), ROOT)];
        while let Some((path, id)) = dirs.pop() {
            let Ok(dir) = self.dir(id) else { continue };
            for (name, &id) in &dir.entries {
                match self.nodes.get(&id) {
                    Some(Node::Dir(_)) => dirs.push((path.join(name), id)),
                    Some(Node::File(_)) => drop(files.insert(path.join(name), id)),
                    None => {}
                }
            }
        }
        files
    }

    /// Drops the nodes that have no name, will have none after any crash, and are not open.
    pub(super) fn forget_unreachable(&mut self) {
        let mut known: BTreeSet<NodeId> = self.open.keys().copied().chain([ROOT]).collect();
        known.extend(self.changes.iter().map(|change| change.node));
        let mut left: Vec<NodeId> = known.iter().copied().collect();
        while let Some(id) = left.pop() {
            let Ok(dir) = self.dir(id) else { continue };
            let children = dir.entries.values().chain(dir.durable.values());
            left.extend(children.filter(|child| known.insert(**child)).copied().collect::<Vec<_>>());
        }
        self.nodes.retain(|id, _| known.contains(id));
    }
}

/// Writes `bytes` at `offset`; a gap before them becomes zero.
pub(super) fn put(content: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let (start, end) = (offset as usize, offset as usize + bytes.len());
    if content.len() < end {
        content.resize(end, 0);
    }
    content[start..end].copy_from_slice(bytes);
}

/// The system error of a number.
pub(super) fn os_error(number: Refused) -> io::Error {
    io::Error::from_raw_os_error(number)
}

fn names(path: &Path) -> Result<Vec<String>, Refused> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_str().ok_or(libc::EINVAL)?.to_owned()),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(libc::EINVAL),
        }
    }
    Ok(names)
}
