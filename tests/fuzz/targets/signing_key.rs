#![no_main]
//! Keys and certificates that a user brings: PEM or DER, and what is believed of them must hold.

use libfuzzer_sys::fuzz_target;
use payload::apk::sign::SigningKey;

fuzz_target!(|data: &[u8]| {
    if let Ok(key) = SigningKey::from_bytes(data) {
        let signature = key.sign(b"message");
        key.algorithm().verify(key.public_key(), b"message", &signature).expect("our own signature");
        let pem = key.to_pem().expect("a key that was read");
        let again = SigningKey::from_pem(&pem).expect("our own text");
        assert_eq!(again.certificate(), key.certificate());
    }
    let key = &*fuzz::archive::KEY;
    if let Ok(certificates) = SigningKey::from_der(key).expect("a good key").with_certificate(data) {
        assert!(!certificates.certificates().is_empty());
    }
});
