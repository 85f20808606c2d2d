//! A coarse picture of a matrix of costs: two bytes an edge, by rows and by columns.
//!
//! A cost is rounded down to whole *steps*. The sum of two such numbers is never above the steps of the true
//! sum, and less than two below them. So a scan over a row or a column of them, which is short and of one
//! kind of addition and comparison that every processor does many at a time, leaves only a few places of
//! which the true costs have to be looked at. Whatever is further than the numbers go is [`FAR`] and may be
//! anything beyond: what is found stays exact, it only takes longer where much is far.

/// So many steps or more, or no edge at all.
pub(super) const FAR: i16 = i16::MAX;
/// Numbers looked at together. Lines are as long as a multiple of it.
const LANES: usize = 32;

/// The picture.
#[derive(Clone, Debug)]
pub(super) struct Coarse {
    /// A step, in units of cost.
    step: u64,
    stride: usize,
    rows: Vec<i16>,
    columns: Vec<i16>,
}

impl Coarse {
    /// Of a square matrix of costs by rows, in which `reach` is about the middle of what matters: eight
    /// times as much is the furthest that is told apart.
    pub(super) fn new(nodes: usize, costs: &[u64], reach: u64) -> Self {
        let step = (reach / (FAR as u64 / 8)).max(1);
        let stride = nodes.next_multiple_of(LANES);
        let mut coarse = Self {
            step,
            stride,
            rows: vec![FAR; nodes * stride],
            columns: vec![FAR; nodes * stride],
        };
        for (from, row) in costs.chunks_exact(nodes).enumerate() {
            // What leads to where it begins leads nowhere.
            for (to, cost) in row.iter().enumerate().filter(|(to, _)| *to != from) {
                coarse.rows[from * stride + to] = coarse.of(*cost);
            }
        }
        // By squares: each line of memory is fetched once.
        for left in (0..nodes).step_by(LANES) {
            for from in 0..nodes {
                for to in left..nodes.min(left + LANES) {
                    coarse.columns[to * stride + from] = coarse.rows[from * stride + to];
                }
            }
        }
        coarse
    }

    /// A cost in whole steps.
    pub(super) const fn of(&self, cost: u64) -> i16 {
        let steps = cost / self.step;
        if steps < FAR as u64 { steps as i16 } else { FAR }
    }

    /// An edge between two nodes has another cost.
    pub(super) fn put(&mut self, from: usize, to: usize, cost: u64) {
        let steps = self.of(cost);
        self.rows[from * self.stride + to] = steps;
        self.columns[to * self.stride + from] = steps;
    }

    /// The edges that begin at a node.
    pub(super) fn row(&self, from: usize) -> &[i16] {
        &self.rows[from * self.stride..][..self.stride]
    }

    /// The edges that end at a node.
    pub(super) fn column(&self, to: usize) -> &[i16] {
        &self.columns[to * self.stride..][..self.stride]
    }

    /// A line as long as rows and columns are, of this number.
    pub(super) fn line(&self, steps: i16) -> Vec<i16> {
        vec![steps; self.stride]
    }
}

/// Shows every place at which the true sum may be among the `rank` least ones, and few others.
pub(super) fn least(a: &[i16], b: &[i16], rank: usize, mut show: impl FnMut(usize)) {
    debug_assert!((1..=LANES).contains(&rank), "one least number is known for each lane");
    let mut lanes = [FAR; LANES];
    for (a, b) in a.chunks_exact(LANES).zip(b.chunks_exact(LANES)) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane = (*lane).min(a.saturating_add(*b));
        }
    }
    lanes.sort_unstable();
    // So many true sums lie less than two steps above that; what begins beyond is none of them.
    let limit = lanes[rank - 1].saturating_add(1);
    for (chunk, (a, b)) in a.chunks_exact(LANES).zip(b.chunks_exact(LANES)).enumerate() {
        let mut nearest = FAR;
        for (a, b) in a.iter().zip(b) {
            nearest = nearest.min(a.saturating_add(*b));
        }
        if nearest <= limit {
            let sums = a.iter().zip(b).map(|(a, b)| a.saturating_add(*b));
            let near = sums.enumerate().filter(|(_, sum)| *sum <= limit);
            near.for_each(|(lane, _)| show(chunk * LANES + lane));
        }
    }
}

/// Shows every place of a line at which `start` and what stands there may together be no more than the
/// bound of the place, and few others. No place whose bound is below zero is shown.
pub(super) fn within(start: i16, line: &[i16], bounds: &[i16], mut show: impl FnMut(usize)) {
    let lines = line.chunks_exact(LANES).zip(bounds.chunks_exact(LANES));
    for (chunk, (line, bounds)) in lines.enumerate() {
        let mut nearest = FAR;
        for (steps, bound) in line.iter().zip(bounds) {
            nearest = nearest.min(start.saturating_add(*steps).saturating_sub(*bound));
        }
        if nearest <= 0 {
            for (lane, (steps, bound)) in line.iter().zip(bounds).enumerate() {
                if start.saturating_add(*steps) <= *bound {
                    show(chunk * LANES + lane);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cost() -> impl Strategy<Value = u64> {
        prop_oneof![6 => 0..2_000_000u64, 1 => 0..200_000_000u64, 1 => Just(u64::MAX / 8)]
    }

    proptest! {
        #[test]
        fn nothing_that_matters_is_left_out(
            costs in proptest::collection::vec(cost(), 49 * 49),
            starts in proptest::collection::vec(cost(), 49),
            changed in (0..49usize, 0..49usize, cost()),
            reach in 1..3_000_000u64,
            rank in 1..7usize,
        ) {
            let mut costs = costs;
            let mut coarse = Coarse::new(49, &costs, reach);
            let (from, to, cost) = changed;
            (0..49).for_each(|node| costs[node * 50] = u64::MAX / 8);
            prop_assume!(from != to);
            costs[from * 49 + to] = cost;
            coarse.put(from, to, cost);
            let mut line = coarse.line(FAR);
            line.iter_mut().zip(&starts).for_each(|(steps, cost)| *steps = coarse.of(*cost));
            let mut shown = Vec::new();
            least(&line, coarse.column(to), rank, |place| shown.push(place));
            let sum = |place: usize| starts[place] + costs[place * 49 + to];
            let mut sums: Vec<u64> = (0..49).map(sum).collect();
            sums.sort_unstable();
            for place in (0..49).filter(|place| sum(*place) <= sums[rank - 1]) {
                prop_assert!(shown.contains(&place));
            }
            let mut bounds = coarse.line(-1);
            bounds.iter_mut().zip(&starts).for_each(|(bound, cost)| *bound = coarse.of(*cost));
            shown.clear();
            within(coarse.of(cost), coarse.row(from), &bounds, |place| shown.push(place));
            prop_assert!(shown.iter().all(|place| *place < 49));
            for to in (0..49).filter(|to| cost + costs[from * 49 + to] <= starts[*to]) {
                prop_assert!(shown.contains(&to));
            }
        }
    }
}
