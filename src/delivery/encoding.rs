//! A batch's body as it goes over the wire: plain, or packed where GMFY takes it.

use std::io::Write as _;

use bytes::Bytes;

use crate::config::Compress;
use crate::upstream::BatchBody;

/// The body as it is sent. The same events yield the same bytes each time.
pub(super) async fn encode(body: Bytes, compress: Compress) -> BatchBody {
    match compress {
        Compress::None => BatchBody::Plain(body),
        Compress::Gzip => {
            let plain = body.clone();
            // Milliseconds for a large batch: not on the runtime's threads.
            match tokio::task::spawn_blocking(move || gzip(&body)).await {
                Ok(Ok(packed)) => BatchBody::Gzip(packed),
                // GMFY takes it plain as well.
                Ok(Err(_)) | Err(_) => BatchBody::Plain(plain),
            }
        }
    }
}

fn gzip(body: &[u8]) -> std::io::Result<Bytes> {
    let room = Vec::with_capacity(body.len() / 4);
    let mut encoder = flate2::write::GzEncoder::new(room, flate2::Compression::fast());
    encoder.write_all(body)?;
    encoder.finish().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[tokio::test]
    async fn a_packed_body_unpacks_and_is_the_same_each_time() {
        let body = Bytes::from(r#"[{"userId":"1","type":"t"}]"#.repeat(50));
        let packed = encode(body.clone(), Compress::Gzip).await;
        assert_eq!(packed, encode(body.clone(), Compress::Gzip).await);
        let BatchBody::Gzip(packed) = packed else { panic!("{packed:?}") };
        assert!(packed.len() < body.len() / 4);
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&*packed).read_to_end(&mut unpacked).unwrap();
        assert_eq!(unpacked, body);
        assert_eq!(encode(body.clone(), Compress::None).await, BatchBody::Plain(body));
    }
}
