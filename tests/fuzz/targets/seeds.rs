#![no_main]
//! No target: writes a few small inputs for each of them into `$KAPSEL_SEEDS/<target>`, so that the fuzzer begins behind the magic
//! numbers. It is a fuzz target all the same, since instrumented code links with nothing else: run it with `-runs=0`.

use std::io;
use std::path::Path;

use fuzz::archive::{KEY, SIGNED, UNSIGNED, pairs};
use fuzz::driver::{AVAILABLE, IMAGE, QUEUE};
use guest_api::ErrorCode;
use guest_api::report::{Command, Message, Report};
use libfuzzer_sys::fuzz_target;
use payload::apk::sign::SigningKey;
use payload::avb::{self, Descriptor};
use payload::disk::composite::{COMPOSITE_MAGIC, CompositeVersion};
use payload::disk::{Component, CompositeSpec};
use payload::idsig::Idsig;
use payload::instance::{self, ApexData, ApkData, InstanceImage, ManagerRecord, SealingCdi};
use payload::metadata::{self, ApexPayload, Metadata};

fuzz_target!(
    init: { write_seeds().expect("write seeds"); },
    |_data: &[u8]| {}
);

fn write_seeds() -> io::Result<()> {
    let directory =
        std::env::var_os("KAPSEL_SEEDS").ok_or_else(|| io::Error::other("KAPSEL_SEEDS is not set"))?;
    let write = |target: &str, inputs: &[Vec<u8>]| -> io::Result<()> {
        let directory = Path::new(&directory).join(target);
        std::fs::create_dir_all(&directory)?;
        inputs
            .iter()
            .enumerate()
            .try_for_each(|(n, input)| std::fs::write(directory.join(n.to_string()), input))
    };
    write("apk", &[SIGNED.clone()])?;
    write("signing_block", &[pairs()])?;
    write("signing_key", &signing_keys())?;
    write("apex", &[fuzz::apex::component(), fuzz::apex::image()])?;
    write("avb", &avb_inputs())?;
    write("idsig", &idsigs())?;
    write("instance", &instance_inputs())?;
    write("manifest", &[manifest()])?;
    write("metadata", &metadata_inputs())?;
    write("composite", &[composite()])?;
    write("disk_config", &disk_configs())?;
    write("gpt", &[table(0), table(3)])?;
    write("payload_config", &configs())?;
    write("report", &frames())?;
    write("boot_elf", &[kernel(1), kernel(3), pvh_kernel(), bzimage()])?;
    let requests: Vec<_> = [0, 1, 4, 8, 11, 13].into_iter().map(block_request).collect();
    write("virtio_blk", &[requests.clone(), requests.into_iter().map(in_memory).collect()].concat())?;
    write("serial", &[serial(0), serial(1), serial(2)])?;
    write("virtio_balloon", &[balloon()])?;
    write("virtio_console", &[console()])?;
    write("virtio_mmio", &[0, 1, 4, 5].map(registers))?;
    write("virtio_vsock", &[vsock_connection(1), vsock_connection(2)])
}

/// A driver that brings a device up, takes a queue away, and resets the device.
fn registers(device: u8) -> Vec<u8> {
    let up = [
        (0x70, 1),
        (0x70, 3),
        (0x24, 1),
        (0x20, 1),
        (0x70, 11),
        (0x30, 0),
        (0x38, 8),
        (0x80, 0),
        (0x90, 0x200),
    ];
    let use_it =
        [(0xa0, 0x300), (0x44, 1), (0x70, 15), (0x50, 0), (0x64, 1), (0x44, 0), (0x14, 1), (0x70, 0)];
    let write = |&(offset, value): &(u16, u32)| {
        [&[0][..], &offset.to_le_bytes(), &value.to_le_bytes()[..]].concat().into_iter()
    };
    std::iter::once(device).chain(up.iter().chain(&use_it).flat_map(write)).collect()
}

/// A driver that looks for a 16550, then a guest that writes, is typed to, reads, and tries the loopback.
fn serial(output: u8) -> Vec<u8> {
    let write = |register, value| [0, register, value];
    let probe =
        [write(3, 0x80), write(0, 1), write(1, 0), write(3, 3), write(1, 3), [1, 2, 0], write(4, 0xb)];
    let line = b"login\n: ".map(|byte| write(0, byte));
    let input = [[2, 80, 0], [1, 2, 0], [1, 5, 0], [1, 0, 0], [1, 0, 0], [0x82, 255, 0], [3, 0, 0]];
    let loopback = [write(4, 0x10), write(0, 7), [1, 0, 0], write(4, 0), [1, 20, 0], [0x83, 0, 0]];
    let operations = [&probe[..], &line, &input, &loopback].concat();
    std::iter::once(output).chain(operations.into_iter().flatten()).collect()
}

/// Buffers to be typed into, and two lines.
fn console() -> Vec<u8> {
    let mut input = Input::new();
    for index in 0..4 {
        input.descriptor(0, index, (0x8000 + u64::from(index) * 0x200, 0x200), 2);
        input.entry(0, u64::from(index), index);
        input.offer(0);
    }
    input.put(0x800, b"line\n");
    for index in 0..2 {
        input.descriptor(1, index, (0x800, 5), 0);
        input.entry(1, u64::from(index), index);
        input.offer(1);
    }
    input.bytes()
}

/// Pages given up and taken back, and a free range; no ring is among them.
fn balloon() -> Vec<u8> {
    let mut input = Input::new();
    let numbers: Vec<u8> = [4_u32, 5, 3, 0x21, 0x7fff_ffff].iter().flat_map(|n| n.to_le_bytes()).collect();
    input.put(0xc00, &numbers);
    for queue in [0, 1] {
        input.descriptor(queue, 0, (0xc00, 20), 0);
    }
    input.descriptor(2, 0, (0x8000, 0x4000), 2);
    for queue in 0..3 {
        input.offer(queue);
    }
    input.bytes()
}

fn avb_inputs() -> Vec<Vec<u8>> {
    let property = Descriptor::Property { key: "a".into(), value: b"b".to_vec() };
    let command_line = Descriptor::KernelCommandLine { flags: 0, text: "quiet".into() };
    let descriptors = vec![avb::make::hash_descriptor(b"kernel", b"salt", "boot"), property, command_line];
    let statement = avb::make::Statement { descriptors, ..Default::default() };
    let kernel = |key| statement.append_to(b"kernel".to_vec(), 6, key);
    let vbmeta = |key| statement.to_vbmeta(key);
    let key = &*fuzz::apex::KEY;
    vec![
        vbmeta(None),
        vbmeta(Some(key)),
        kernel(Some(key)),
        kernel(None),
        fuzz::apex::image(),
        key.public_key(),
    ]
}

/// A blank image, one with two places for the sealed record behind somebody else's, and what is in a sealed record.
fn instance_inputs() -> Vec<Vec<u8>> {
    let mut blank = vec![0; 2048];
    instance::format(&mut blank).expect("long enough");
    let mut image = vec![0; 8192];
    instance::format(&mut image).expect("long enough");
    let apk = ApkData { package_name: "a".into(), cert_hash: vec![1, 200], ..ApkData::default() };
    let apex = ApexData { name: "b".into(), manifest_version: Some(1), ..ApexData::default() };
    let record = ManagerRecord {
        apk_data: apk.clone(),
        extra_apks_data: vec![apk],
        apex_data: vec![apex],
        ..ManagerRecord::default()
    };
    // Somebody else's record of 6 bytes.
    (image[512], image[528]) = (1, 6);
    let mut image = InstanceImage::open(image).expect("just made");
    let mut count = 0;
    for _ in 0..2 {
        let mut random = |buffer: &mut [u8]| {
            count += 1;
            buffer.fill(count);
            Ok(())
        };
        image.set_manager_record(&SealingCdi::new([1; 32]), &record, &mut random).expect("there is room");
    }
    vec![blank, image.into_storage(), record.encode().to_vec()]
}

/// SEC 1 and PKCS#8, DER and PEM, and a certificate.
fn signing_keys() -> Vec<Vec<u8>> {
    let key = SigningKey::from_der(&KEY).expect("a good key");
    let pem = key.to_pem().expect("a good key");
    vec![KEY.clone(), pem.into_bytes(), key.certificate().to_vec(), key.public_key().to_vec()]
}

/// Signed and not.
fn idsigs() -> Vec<Vec<u8>> {
    let key = SigningKey::from_der(&KEY).expect("a good key");
    let mut all = Vec::new();
    for (apk, salt) in [(&*SIGNED, &b""[..]), (&SIGNED, b"salt"), (&UNSIGNED, b""), (&UNSIGNED, b"salt")] {
        let (mut idsig, tree) = Idsig::create_forced(apk, salt).expect("an archive");
        all.push(idsig.to_bytes(&tree));
        idsig.sign(apk, &key).expect("a signature");
        all.push(idsig.to_bytes(&tree));
    }
    all
}

fn manifest() -> Vec<u8> {
    let apk = payload::apk::Apk::open(SIGNED.clone()).expect("an archive");
    apk.read(payload::apk::manifest::PATH, 1 << 16).expect("a manifest")
}

fn metadata_inputs() -> Vec<Vec<u8>> {
    let apex =
        ApexPayload { name: "a".into(), partition_name: "microdroid-apex-0".into(), ..Default::default() };
    [Vec::new(), vec![apex]]
        .map(|apexes| metadata::encode(&Metadata::for_apk(apexes, metadata::config_path("assets/c.json"))))
        .into()
}

fn configs() -> Vec<Vec<u8>> {
    [
        r#"{"os": {"name": "microdroid"}, "task": {"type": "microdroid_launcher", "command": "a.so", "args": ["x"]}}"#,
        r#"{"task": {"type": "executable", "command": "bin/a"}, "apexes": [{"name": "a"}], "extra_apks": [{"path": "b"}],
            "prefer_staged": true, "export_tombstones": false, "enable_authfs": true, "hugepages": true, "tsk": {}}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}

/// A specification of three components, without its magic number.
fn composite() -> Vec<u8> {
    let at =
        |path: &str, offset| Component { path: path.into(), offset, file_offset: 512, writable: offset > 0 };
    let components = vec![at("head", 0), at("/a", 20480), at("tail", 61440)];
    let spec = CompositeSpec::new(CompositeVersion::Relative, components, 65536).expect("a disk");
    spec.to_bytes().expect("names")[COMPOSITE_MAGIC.len()..].to_vec()
}

fn disk_configs() -> Vec<Vec<u8>> {
    [
        r#"{"apexes": [{"name": "a", "path": "b",},], "system_apexes": ["c"], "payload_config_path": "\"d\\", }"#,
        r#"{"apk": {"name": "a", "path": "b", "idsigPath": "c"}}"#,
        r#"{"apk": {"name": "a", "path": "b", "idsig_path": "c", "nmae": 1}}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}

/// Both tables as they are, and what is to be done with their checksums.
fn table(mode: u8) -> Vec<u8> {
    let disk = &fuzz::table::DISK;
    [&[mode], &disk[..2048], &disk[disk.len() - 1024..]].concat()
}

fn frames() -> Vec<Vec<u8>> {
    let reports = [
        Report::Started,
        Report::Ready,
        Report::Finished { exit_code: -1 },
        Report::Killed { signal: 11 },
        Report::Error { code: ErrorCode::PayloadChanged, message: "m".into() },
    ];
    let commands = [Command::Ack, Command::Stop { grace_ms: 5 }];
    let mut inputs = vec![vec![1], vec![3]];
    reports.iter().for_each(|report| report.encode(&mut inputs[0]));
    commands.iter().for_each(|command| command.encode(&mut inputs[1]));
    inputs
}

/// An ELF with `segments` segments of 16 bytes.
fn kernel(segments: u16) -> Vec<u8> {
    let mut file = Vec::from(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0");
    let mut words = |words: &[u64]| words.iter().for_each(|word| file.extend(word.to_le_bytes()));
    words(&[0x10_0000, 64, 0]);
    file.extend([0; 4]);
    [64, 56, segments, 64, 0, 0].iter().for_each(|half: &u16| file.extend(half.to_le_bytes()));
    for n in 0..u64::from(segments) {
        file.extend([1, 0, 0, 0, 7, 0, 0, 0]);
        let address = 0x10_0000 + n * 0x1000;
        [0x20, address, address, 16, 0x1000, 1].iter().for_each(|word: &u64| file.extend(word.to_le_bytes()));
    }
    file
}

/// A kernel whose second header is a note with a PVH entry.
fn pvh_kernel() -> Vec<u8> {
    let mut file = kernel(2);
    let second = 64 + 56;
    file[second] = 4;
    let end = file.len() as u64;
    for (at, word) in [(8, end), (32, 20), (40, 20)] {
        file[second + at..second + at + 8].copy_from_slice(&word.to_le_bytes());
    }
    [4_u32, 4, 18].iter().for_each(|word| file.extend(word.to_le_bytes()));
    file.extend(b"Xen\0");
    file.extend(0x10_0008_u32.to_le_bytes());
    file
}

/// A bzImage of protocol 2.15 that is loaded at 1 MiB.
fn bzimage() -> Vec<u8> {
    let mut file = vec![0; 1024 + 1024];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x1f4, &[64, 0, 0, 0]);
    put(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(0x202, b"HdrS\x0f\x02");
    put(0x211, &[1]);
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(0x236, &[1]);
    put(0x238, &2047_u32.to_le_bytes());
    put(0x258, &0x10_0000_u64.to_le_bytes());
    put(0x260, &0x2000_u32.to_le_bytes());
    file
}

/// An input for the driver: features, size of 16, an image, and operations.
struct Input {
    image: Vec<u8>,
    operations: Vec<u8>,
}

impl Input {
    fn new() -> Self {
        Self { image: vec![0; IMAGE], operations: Vec::new() }
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        let at = usize::try_from(at).expect("within the image");
        self.image[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Descriptor `index` of `queue`; flags: 1 next, 2 write.
    fn descriptor(&mut self, queue: u64, index: u16, buffer: (u64, u32), flags: u16) {
        let mut bytes = buffer.0.to_le_bytes().to_vec();
        bytes.extend(buffer.1.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend((index + 1).to_le_bytes());
        self.put(queue * QUEUE + u64::from(index) * 16, &bytes);
    }

    /// Lets entry `n` of the available ring of `queue` name the chain at `head`.
    fn entry(&mut self, queue: u64, n: u64, head: u16) {
        self.put(queue * QUEUE + AVAILABLE + 4 + 2 * n, &head.to_le_bytes());
    }

    fn offer(&mut self, queue: u8) {
        self.operations.push(2 | queue << 2);
    }

    fn bytes(self) -> Vec<u8> {
        [vec![0xfe, 4], self.image, self.operations].concat()
    }
}

/// One request of this type: header, data, status.
fn block_request(kind: u32) -> Vec<u8> {
    let mut input = Input::new();
    let mut header = kind.to_le_bytes().to_vec();
    header.extend([0; 4]);
    header.extend(0x41_u64.to_le_bytes());
    input.put(0x800, &header);
    input.descriptor(0, 0, (0x800, 16), 1);
    let device_writes = if kind == 0 || kind == 8 { 2 } else { 0 };
    input.descriptor(0, 1, (0x4000, 512), 1 | device_writes);
    input.descriptor(0, 2, (0x900, 1), 2);
    input.entry(0, 0, 0);
    input.offer(0);
    input.bytes()
}

/// The same for a disk in memory, with queues of the same size.
fn in_memory(mut input: Vec<u8>) -> Vec<u8> {
    let size = input[1] % 5;
    input[1] = (0x80..).find(|byte| byte % 5 == size).expect("one of five");
    input
}

/// A connection of this type to the port claimed for it, some data, and the end of it.
fn vsock_connection(kind: u16) -> Vec<u8> {
    let mut input = Input::new();
    // Receive buffers, one chain each.
    for index in 0..8 {
        input.descriptor(0, index, (0x8000 + u64::from(index) * 0x200, 0x200), 2);
        input.entry(0, u64::from(index), index);
    }
    // REQUEST, RW with 16 bytes, CREDIT_UPDATE, SHUTDOWN: port 2000 of CID 3 to port 1 of CID 2.
    for (index, (operation, len)) in (0..).zip([(1_u16, 0_u32), (5, 16), (6, 0), (4, 0)]) {
        let at = 0xc00 + u64::from(index) * 64;
        let mut header = Vec::new();
        [3_u64, 2].iter().for_each(|cid| header.extend(cid.to_le_bytes()));
        [2000_u32, kind.into(), len].iter().for_each(|word| header.extend(word.to_le_bytes()));
        [kind, operation].iter().for_each(|half| header.extend(half.to_le_bytes()));
        [3_u32, 4096, 0].iter().for_each(|word| header.extend(word.to_le_bytes()));
        input.put(at, &header);
        input.descriptor(1, index, (at, 44 + len), 0);
        input.entry(1, u64::from(index), index);
    }
    for _ in 0..8 {
        input.offer(0);
    }
    for _ in 0..4 {
        input.offer(1);
    }
    input.bytes()
}
