//! What happens before what.
//!
//! Within a unit (a block, or a cluster of blocks) every warp has a vector clock: a barrier makes all that its
//! warps did before it happen before all that they do after it. Lanes of one warp are ordered by instructions
//! that synchronise them (`bar.warp.sync`, `shfl.sync`, ...).
//!
//! Between units there are fences and atomics. A fence covers what happened before it in its unit; a later
//! atomic (or a store, if strong) of a thread that the fence happens before publishes at its address what is
//! covered; an atomic (or strong load) at that address observes what is published there so far; a fence after
//! that makes it known. An observation passes through a barrier, so that after "one thread takes the ticket,
//! all threads synchronise" a fence by any of them counts.

use crate::lanes::{LANES, Mask, lanes};
use crate::races::Touch;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// For each address, how many of the publications there are known.
type Known = Arc<BTreeMap<u64, usize>>;

/// For each thread of a unit, the stamp below which its accesses are covered by a fence.
type Cover = Arc<Vec<u32>>;

/// A publication.
struct Release {
    unit: u32,
    cover: Cover,
    known: Known,
}

/// The publications of a launch, by address.
#[derive(Default)]
pub(crate) struct Publications {
    at: HashMap<u64, Vec<Release>>,
    /// For each unit, where it published: address and index.
    by_unit: HashMap<u32, Vec<(u64, usize)>>,
}

impl Publications {
    /// Adds one and returns how many there are then at the address.
    fn publish(&mut self, address: u64, release: Release) -> usize {
        let unit = release.unit;
        let list = self.at.entry(address).or_default();
        list.push(release);
        let count = list.len();
        self.by_unit.entry(unit).or_default().push((address, count - 1));
        count
    }

    fn count(&self, address: u64) -> usize {
        self.at.get(&address).map_or(0, Vec::len)
    }

    /// Whether what is known includes a publication that covers the access.
    fn reaches(&self, earlier: &Touch, mask: Mask, known: &Known) -> bool {
        self.by_unit.get(&earlier.unit).into_iter().flatten().any(|&(address, index)| {
            known.get(&address).is_some_and(|&count| index < count) && {
                let cover = &self.at[&address][index].cover;
                lanes(mask).all(|lane| {
                    cover.get(usize::from(earlier.warp) * LANES + lane).is_some_and(|&c| c > earlier.stamp)
                })
            }
        })
    }

    /// What is known, what the publishers of that knew, and so on.
    fn closure(&self, known: &Known) -> Known {
        let mut all = BTreeMap::new();
        let mut open: Vec<(u64, usize)> = known.iter().map(|(&address, &count)| (address, count)).collect();
        while let Some((address, count)) = open.pop() {
            let seen = all.get(&address).copied().unwrap_or(0);
            if count > seen {
                all.insert(address, count);
                for release in &self.at[&address][seen..count] {
                    open.extend(release.known.iter().map(|(&address, &count)| (address, count)));
                }
            }
        }
        Arc::new(all)
    }
}

/// The clocks of a unit.
pub(crate) struct Clocks {
    unit: u32,
    warps: usize,
    /// `vector[w * warps + v]`: accesses of warp v with a stamp below it happen before what w does now.
    vector: Vec<u32>,
    /// Accesses of the same warp with a stamp below it happen before what any of its lanes does now.
    synced: Vec<u32>,
    /// For each thread, the last collective of part of the warp: its lanes and the clock after it.
    partial: Vec<(Mask, u32)>,
    covered: Vec<Option<Cover>>,
    observed: Vec<Known>,
    known: Vec<Known>,
}

impl Clocks {
    pub(crate) fn new(unit: u32, warps: usize) -> Self {
        let mut vector = vec![0; warps * warps];
        for warp in 0..warps {
            vector[warp * warps + warp] = 1;
        }
        Clocks {
            unit,
            warps,
            vector,
            synced: vec![0; warps],
            partial: vec![(0, 0); warps * LANES],
            covered: vec![None; warps],
            observed: vec![Known::default(); warps],
            known: vec![Known::default(); warps],
        }
    }

    /// The warp's own clock.
    pub(crate) fn stamp(&self, warp: usize) -> u32 {
        self.vector[warp * self.warps + warp]
    }

    fn tick(&mut self, warp: usize) -> u32 {
        let clock = &mut self.vector[warp * self.warps + warp];
        *clock += 1;
        *clock
    }

    /// Whether an access of the same unit happens before what the lane does now.
    pub(crate) fn before(&self, warp: usize, lane: usize, earlier: &Touch, mask: Mask) -> bool {
        let other = usize::from(earlier.warp);
        if other != warp {
            return self.vector[warp * self.warps + other] > earlier.stamp;
        }
        let (with, clock) = self.partial[warp * LANES + lane];
        earlier.stamp < self.synced[warp] || (mask & !with == 0 && earlier.stamp < clock)
    }

    /// The lanes have met; `live` are those of the warp that have not ended.
    pub(crate) fn sync_lanes(&mut self, warp: usize, mask: Mask, live: Mask) {
        let clock = self.tick(warp);
        if live & !mask == 0 {
            self.synced[warp] = clock;
        } else {
            for lane in lanes(mask) {
                self.partial[warp * LANES + lane] = (mask, clock);
            }
        }
    }

    /// The warp arrives at a barrier: what it did so far joins what the others did.
    pub(crate) fn arrive(&mut self, warp: usize, join: &mut Join) {
        self.synced[warp] = self.tick(warp);
        join.vector.resize(self.warps, 0);
        let row = &self.vector[warp * self.warps..][..self.warps];
        join.vector.iter_mut().zip(row).for_each(|(all, one)| *all = (*all).max(*one));
        join_covers(&mut join.covered, &self.covered[warp]);
        join_known(&mut join.observed, &self.observed[warp]);
        join_known(&mut join.known, &self.known[warp]);
    }

    /// The warp passes a barrier that is complete: it learns of what was before.
    pub(crate) fn pass(&mut self, warp: usize, join: &Join) {
        let row = &mut self.vector[warp * self.warps..][..self.warps];
        row.iter_mut().zip(&join.vector).for_each(|(one, all)| *one = (*one).max(*all));
        join_covers(&mut self.covered[warp], &join.covered);
        join_known(&mut self.observed[warp], &join.observed);
        join_known(&mut self.known[warp], &join.known);
    }

    /// A fence of these lanes that reaches other units; `live` are the lanes that have not ended.
    pub(crate) fn fence(&mut self, warp: usize, mask: Mask, live: Mask) {
        self.acquire(warp);
        let everyone = live & !mask == 0;
        self.cover(warp, if everyone { Mask::MAX } else { mask });
    }

    fn acquire(&mut self, warp: usize) {
        join_known(&mut self.known[warp], &self.observed[warp]);
    }

    fn cover(&mut self, warp: usize, mask: Mask) {
        let clock = self.tick(warp);
        let mut cover = match &self.covered[warp] {
            Some(cover) => cover.to_vec(),
            None => vec![0; self.warps * LANES],
        };
        for (thread, limit) in cover.iter_mut().enumerate() {
            let (other, lane) = (thread / LANES, thread % LANES);
            let now = if other != warp {
                self.vector[warp * self.warps + other]
            } else if mask >> lane & 1 != 0 {
                clock
            } else {
                self.synced[warp]
            };
            *limit = now.max(*limit);
        }
        self.covered[warp] = Some(Arc::new(cover));
    }

    /// An atomic or strong access at a global address, of a thread whose order says what it does at once.
    pub(crate) fn strong_access(
        &mut self,
        publications: &mut Publications,
        warp: usize,
        lane: usize,
        address: u64,
        access: StrongAccess,
    ) {
        if access.release {
            self.cover(warp, 1 << lane);
        }
        let mut count = publications.count(address);
        if access.writes {
            let cover = self.covered[warp].clone().unwrap_or_default();
            let known = self.known[warp].clone();
            count = publications.publish(address, Release { unit: self.unit, cover, known });
        }
        if access.reads {
            Arc::make_mut(&mut self.observed[warp]).insert(address, count);
        }
        if access.acquire {
            self.acquire(warp);
        }
    }

    /// Whether an access of another unit happens before what the warp does now at the address.
    pub(crate) fn before_across(
        &mut self,
        publications: &Publications,
        warp: usize,
        address: u64,
        earlier: &Touch,
        mask: Mask,
    ) -> bool {
        // What an atomic has read is behind it, whatever else is not.
        if earlier.strong && self.observed[warp].contains_key(&address) {
            return true;
        }
        if publications.reaches(earlier, mask, &self.known[warp]) {
            return true;
        }
        self.known[warp] = publications.closure(&self.known[warp]);
        publications.reaches(earlier, mask, &self.known[warp])
    }
}

/// What the warps that arrived at a barrier did before it.
#[derive(Default)]
pub(crate) struct Join {
    vector: Vec<u32>,
    covered: Option<Cover>,
    observed: Known,
    known: Known,
}

/// What a strong access does.
#[derive(Clone, Copy)]
pub(crate) struct StrongAccess {
    pub reads: bool,
    pub writes: bool,
    pub acquire: bool,
    pub release: bool,
}

fn join_covers(all: &mut Option<Cover>, one: &Option<Cover>) {
    match (all, one) {
        (_, None) => {}
        (all @ None, Some(one)) => *all = Some(one.clone()),
        (Some(all), Some(one)) if Arc::ptr_eq(all, one) => {}
        (Some(all), Some(one)) => {
            Arc::make_mut(all).iter_mut().zip(&**one).for_each(|(a, b)| *a = (*a).max(*b));
        }
    }
}

fn join_known(all: &mut Known, one: &Known) {
    if one.is_empty() || Arc::ptr_eq(all, one) {
    } else if all.is_empty() {
        *all = one.clone();
    } else {
        let joined = Arc::make_mut(all);
        for (&address, &count) in &**one {
            let mine = joined.entry(address).or_default();
            *mine = count.max(*mine);
        }
    }
}
