//! Which signer of v3.1 and v3 counts for an SDK, and whether the two blocks know of each other.

use super::{MAX_SIGNERS, Scheme, VerifyError, signer_error};
use crate::apk::signer::{Attributes, Layout, SignerError, SignerRecord, VerifiedSigner};

/// Attribute of a v3 signer: the SDK from which v3.1 holds.
pub(super) const ROTATION_MIN_SDK: u32 = 0x559f_8b02;
/// Attribute of a v3.1 signer: the first SDK of its range means only previews of the one after it.
pub(super) const ROTATION_ON_DEVELOPMENT_RELEASE: u32 = 0xc2a6_b3ba;

const STRIPPED: VerifyError = VerifyError::Stripped { signed: Scheme::V3, missing: Scheme::V31 };

/// The one signer for `sdk`, with the scheme it is of.
pub(super) fn verify<'a>(
    v3: &'a [u8],
    v31: Option<&'a [u8]>,
    sdk: u32,
) -> Result<(Scheme, VerifiedSigner<'a>), VerifyError> {
    let failed = signer_error(Scheme::V3);
    let newer = v31.map(|value| parse(value, Scheme::V31, sdk)).transpose()?.unwrap_or_default();
    let signers = parse(v3, Scheme::V3, sdk)?;
    // Where the newer block begins, by its unsigned ranges; whose range counts has signed it as well.
    let begins = newer.iter().map(|signer| *signer.sdk().start()).min();
    let knows = |attributes: &Attributes<'_>| -> Result<bool, SignerError> {
        let told = attributes.numbers(ROTATION_MIN_SDK)?;
        Ok(told.into_iter().all(|from| Some(from) == begins))
    };

    if newer.iter().any(|signer| signer.sdk().contains(&sdk)) {
        let verified = verify_for_sdk(&newer, Scheme::V31, sdk)?;
        // Released SDKs only are known here, so a signer for previews of the next one does not count yet.
        let previews = verified.attributes().all(ROTATION_ON_DEVELOPMENT_RELEASE).next().is_some();
        if !(previews && begins_at(&newer, sdk)) {
            // The v3 signers are for older SDKs and not believed here: only what they say against v3.1 is heard.
            for signer in &signers {
                if !signer.attributes(Layout::V3).and_then(|it| knows(&it)).map_err(&failed)? {
                    return Err(STRIPPED);
                }
            }
            return Ok((Scheme::V31, verified));
        }
    }
    if v31.is_none() && signers.iter().all(|signer| !signer.sdk().contains(&sdk)) {
        // Nobody is left for this SDK: a better reason than that is a signer who says where the other one was.
        for signer in signers.iter().take(MAX_SIGNERS) {
            if let Ok(verified) = signer.verify(Layout::V3)
                && verified
                    .attributes()
                    .numbers(ROTATION_MIN_SDK)
                    .map_err(&failed)?
                    .iter()
                    .any(|it| *it <= sdk)
            {
                return Err(STRIPPED);
            }
        }
    }
    let verified = verify_for_sdk(&signers, Scheme::V3, sdk)?;
    if !knows(verified.attributes()).map_err(&failed)? {
        return Err(STRIPPED);
    }
    Ok((Scheme::V3, verified))
}

/// The signers of a block, of which there is at least one.
fn parse(value: &[u8], scheme: Scheme, sdk: u32) -> Result<Vec<SignerRecord<'_>>, VerifyError> {
    let signers = SignerRecord::parse_all(value, Layout::V3).map_err(signer_error(scheme))?;
    if signers.is_empty() {
        return Err(VerifyError::SignerCount { scheme, found: 0, sdk });
    }
    Ok(signers)
}

/// Whether the signer for `sdk` begins with it.
fn begins_at(signers: &[SignerRecord<'_>], sdk: u32) -> bool {
    signers.iter().any(|signer| *signer.sdk().start() == sdk && signer.sdk().contains(&sdk))
}

/// The one signer whose SDK range holds `sdk`.
pub(super) fn verify_for_sdk<'a>(
    signers: &[SignerRecord<'a>],
    scheme: Scheme,
    sdk: u32,
) -> Result<VerifiedSigner<'a>, VerifyError> {
    let fitting: Vec<_> = signers.iter().filter(|signer| signer.sdk().contains(&sdk)).collect();
    match fitting[..] {
        [signer] => signer.verify(Layout::V3).map_err(signer_error(scheme)),
        _ => Err(VerifyError::SignerCount { scheme, found: fitting.len(), sdk }),
    }
}
