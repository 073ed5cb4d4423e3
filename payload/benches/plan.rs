//! Planning a full disk: 128 partitions of 1 GiB, with both copies of the partition table.
//!
//! Nothing of it depends on the partitions' sizes, and no file is opened or made: the second figure, of partitions of
//! 4 KiB, says the same.

use payload::disk::{Filler, GuidSource, Part, PartitionSpec, plan};

fn main() {
    divan::main();
}

fn specs(len: u64) -> Vec<PartitionSpec> {
    (0..128)
        .map(|index| {
            let part = Part::File { path: format!("/nowhere/{index}").into(), len };
            PartitionSpec::read_only(format!("partition-{index}"), Filler::Size, part)
        })
        .collect()
}

#[divan::bench(args = [1 << 30, 4096])]
fn plan_128_partitions_of(bencher: divan::Bencher<'_, '_>, len: u64) {
    let specs = specs(len);
    bencher.bench(|| plan(&specs, GuidSource::Random));
}
