#![no_main]
//! Instance images: the input is an image, or what was sealed in one; then a record is replaced in it.

use libfuzzer_sys::fuzz_target;
use payload::instance::{InstanceError, InstanceImage, MANAGER, ManagerRecord, RETIRED, SECTOR, SealingCdi};

fuzz_target!(|data: &[u8]| {
    if let Ok(record) = ManagerRecord::decode(data) {
        let encoded = record.encode();
        assert_eq!(ManagerRecord::decode(&encoded).expect("what was encoded"), record);
    }
    let Ok(mut image) = InstanceImage::open(data.to_vec()) else { return };
    let records = image.records().expect("followed before");
    assert!(records.iter().all(|record| record.end() + SECTOR as u64 <= data.len() as u64));
    let cdi = SealingCdi::new([1; 32]);
    let _ = image.manager_record(&cdi);
    let record = ManagerRecord { salt: vec![7; 64], ..ManagerRecord::default() };
    let mut random = |buffer: &mut [u8]| {
        buffer.fill(0x5a);
        Ok(())
    };
    match image.set_manager_record(&cdi, &record, &mut random) {
        Ok(()) => assert_eq!(image.manager_record(&cdi).expect("just sealed"), Some(record)),
        Err(InstanceError::Full { .. } | InstanceError::Io { .. }) => {}
        Err(other) => panic!("{other:?}"),
    }
    // Nobody else's record was touched.
    let image = image.into_storage();
    let others = records.iter().filter(|record| record.uuid != MANAGER && record.uuid != RETIRED);
    for record in others {
        let [start, end] = [record.offset, record.end()].map(|at| usize::try_from(at).expect("in memory"));
        assert_eq!(image[start..end], data[start..end]);
    }
});
