//! A batch of the header in the crate's terms.

use dpo_kernels::{Batch, HostBatch, IGNORE_INDEX, LabelAlignment, Pairs, Result, Sequences, Transform};

use crate::given::{given, null, zero};
use crate::header::*;
use crate::pointers::{Array, Indices, slice, value};

const _: () = assert!(DPO_IGNORE_INDEX as i64 == IGNORE_INDEX);

/// The whole batch, of a valid shape.
pub(crate) fn batch(batch: &dpo_batch) -> Result<Batch<Indices>> {
    let (row_stride, ignore_index, ld_alpha) = given![batch.given;
        DPO_BATCH_ROW_STRIDE => "row_stride": batch.row_stride,
        DPO_BATCH_IGNORE_INDEX => "ignore_index": batch.ignore_index,
        DPO_BATCH_LD_ALPHA => "ld_alpha": batch.ld_alpha,
    ];
    let defaults = Batch::new(batch.vocab, sequences(batch)?, label_alignment(batch)?);
    let batch = Batch {
        row_stride: row_stride.unwrap_or(defaults.row_stride),
        pairs: pairs(batch)?,
        ignore_index: ignore_index.unwrap_or(defaults.ignore_index),
        transform: transform(&batch.transform)?,
        ld_alpha: ld_alpha.unwrap_or(defaults.ld_alpha),
        ..defaults
    };
    batch.validate_shape()?;
    Ok(batch)
}

/// What `pair_loss` needs of a batch: one row a sequence, the pairs, a valid shape.
pub(crate) fn paired_sequences(batch: &dpo_batch) -> Result<Batch<Indices>> {
    let batch = Batch { pairs: pairs(batch)?, ..Batch::for_pair_loss(batch.sequences) };
    batch.validate_shape()?;
    Ok(batch)
}

/// The same batch with its index arrays in host memory.
///
/// # Safety
///
/// The index arrays are null or as long as they say, and stay as they are for `'a`.
pub(crate) unsafe fn in_host_memory<'a>(batch: Batch<Indices>) -> Result<HostBatch<'a>> {
    // SAFETY: the caller's promise.
    batch.try_map_indices(|indices| unsafe {
        slice(indices.argument, indices.array.pointer, indices.array.len)
    })
}

fn sequences(batch: &dpo_batch) -> Result<Sequences<Indices>> {
    if batch.cu_seqlens.is_null() {
        zero("rows", batch.rows, "in a padded batch, whose cu_seqlens is null")?;
        return Ok(Sequences::Padded { count: batch.sequences, len: batch.sequence_len });
    }
    zero("sequence_len", batch.sequence_len, "in a packed batch, whose cu_seqlens is given")?;
    let array = Array { pointer: batch.cu_seqlens, len: batch.sequences.saturating_add(1) };
    Ok(Sequences::Packed { cu_seqlens: Indices { argument: "cu_seqlens", array }, rows: batch.rows })
}

fn label_alignment(batch: &dpo_batch) -> Result<LabelAlignment> {
    match batch.label_alignment {
        DPO_ALIGNED => Ok(LabelAlignment::Aligned),
        DPO_NEXT_TOKEN => Ok(LabelAlignment::NextToken),
        other => {
            let expected = "DPO_ALIGNED (row r predicts labels[r]) or DPO_NEXT_TOKEN \
                            (row t predicts labels[t + 1], as for Hugging Face's labels)";
            Err(value("label_alignment", expected, other))
        }
    }
}

fn pairs(batch: &dpo_batch) -> Result<Pairs<Indices>> {
    let indices = |argument, pointer, len| Indices { argument, array: Array { pointer, len } };
    let pairs = match batch.pairs {
        DPO_PAIRS_CONCATENATED => Pairs::Concatenated,
        DPO_PAIRS_INTERLEAVED => Pairs::Interleaved,
        DPO_PAIRS_INDEXED => Pairs::Indexed {
            chosen: indices("chosen", batch.chosen, batch.pair_count),
            rejected: indices("rejected", batch.rejected, batch.pair_count),
        },
        DPO_PAIRS_NONE => Pairs::None,
        DPO_PAIRS_UNPAIRED => {
            Pairs::Unpaired { desirable: indices("desirable", batch.desirable, batch.sequences) }
        }
        other => return Err(value("pairs", "a dpo_pairs", other)),
    };
    if !matches!(pairs, Pairs::Indexed { .. }) {
        let condition = "where pairs is not DPO_PAIRS_INDEXED";
        zero("pair_count", batch.pair_count, condition)?;
        null("chosen", batch.chosen, condition)?;
        null("rejected", batch.rejected, condition)?;
    } else if !(1..=i32::MAX as usize).contains(&batch.pair_count) {
        return Err(value("pair_count", format!("between 1 and {}", i32::MAX), batch.pair_count));
    }
    if !matches!(pairs, Pairs::Unpaired { .. }) {
        null("desirable", batch.desirable, "where pairs is not DPO_PAIRS_UNPAIRED")?;
    }
    Ok(pairs)
}

fn transform(transform: &dpo_transform) -> Result<Transform> {
    let (scale, softcap, valid_vocab) = given![transform.given;
        DPO_TRANSFORM_SCALE => "transform.scale": transform.scale,
        DPO_TRANSFORM_SOFTCAP => "transform.softcap": transform.softcap,
        DPO_TRANSFORM_VALID_VOCAB => "transform.valid_vocab": transform.valid_vocab,
    ];
    Ok(Transform { scale: scale.unwrap_or(Transform::default().scale), softcap, valid_vocab })
}
