//! Device time, by events around the replays of a captured graph, in which the host's time for a launch has no part.

use std::sync::Arc;

use cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaGraph, CudaStream};

use crate::Result;

/// The median of so many samples is taken, each as long as this at the least.
const SAMPLES: usize = 7;
const SAMPLE_MS: f64 = 8.0;

pub struct Clock {
    stream: Arc<CudaStream>,
}

impl Clock {
    pub fn new(stream: &Arc<CudaStream>) -> Self {
        Clock { stream: stream.clone() }
    }

    /// Device microseconds of one of the calls `call(0)` to `call(turns − 1)`, which go through as many buffers as they like.
    pub fn microseconds(&self, turns: usize, mut call: impl FnMut(usize) -> Result<()>) -> Result<f64> {
        call(0)?; // what loads at its first launch must not do so in a capture
        let graph = self.capture(|| (0..turns).try_for_each(&mut call))?;
        self.milliseconds(&graph, 1)?;
        let once = self.milliseconds(&graph, 1)?;
        let replays = (SAMPLE_MS / once).ceil().clamp(1.0, 1000.0) as usize;
        let mut samples =
            (0..SAMPLES).map(|_| self.milliseconds(&graph, replays)).collect::<Result<Vec<f64>>>()?;
        samples.sort_by(f64::total_cmp);
        Ok(1e3 * samples[SAMPLES / 2] / (replays * turns) as f64)
    }

    fn capture(&self, calls: impl FnOnce() -> Result<()>) -> Result<CudaGraph> {
        let instantiate = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        self.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL)?;
        let called = calls();
        // A capture is ended even where a call failed, whose error says more than the end's.
        let graph = self.stream.end_capture(instantiate);
        called?;
        Ok(graph?.ok_or("nothing was captured")?)
    }

    /// Device time of so many replays.
    fn milliseconds(&self, graph: &CudaGraph, replays: usize) -> Result<f64> {
        let start = self.stream.record_event(Some(CU_EVENT_DEFAULT))?;
        (0..replays).try_for_each(|_| graph.launch())?;
        let end = self.stream.record_event(Some(CU_EVENT_DEFAULT))?;
        Ok(start.elapsed_ms(&end)?.into())
    }
}
