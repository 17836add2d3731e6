//! The products of plans, by cuBLASLt.
//!
//! What a product needs besides its addresses is made once for each of its shapes, and kept: descriptions, layouts, and the
//! algorithm that the library's heuristic puts first. Sums are in f32, f32 factors are not rounded to TF32, and only such
//! algorithms are asked for as add up in a fixed order: those that do not split a sum, and those that keep its parts in the
//! workspace.
//!
//! No GPU has run this yet: what the suite holds is everything around it, with products by their definition.

mod library;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{c_int, c_void};
use std::fmt;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::{CUcontext, CUstream};
use cudarc::driver::{CudaContext, result};

use self::library::*;
use super::device::{driver, no_context, require_driver};
use super::plan::{Factor, Matrix, Plan, Product};
use crate::dtype::DType;
use crate::error::{Error, Result};

/// A handle of cuBLASLt, with what has been prepared for the shapes it has met.
///
/// A value may be shared between threads, and dropped at any time. Plans that have products run with one:
/// [`Kernels::run_with`](super::Kernels::run_with).
///
/// ```no_run
/// use dpo_kernels::cuda::{Products, context};
///
/// let context = context(0)?;
/// let products = Products::new(&context)?; // no library is an error value that names the files that were looked for
/// # Ok::<(), dpo_kernels::Error>(())
/// ```
pub struct Products {
    functions: Functions,
    handle: Opaque,
    context: CUcontext,
    /// Keeps a context that cudarc manages alive as long as the handle.
    owner: Option<Arc<CudaContext>>,
    prepared: Mutex<HashMap<Shape, Prepared>>,
}

// SAFETY: the library's handle may be used from any thread, and what is prepared is behind a lock.
unsafe impl Send for Products {}
// SAFETY: as above.
unsafe impl Sync for Products {}

impl fmt::Debug for Products {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Products").field("shapes", &self.prepared().len()).finish_non_exhaustive()
    }
}

/// A product without its addresses, of which alignments remain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    product: Product,
    alignments: [u32; 3],
}

impl Shape {
    fn of(product: &Product) -> Self {
        let unplaced = |matrix: Matrix| Matrix { address: 0, ..matrix };
        let factor = |factor: Factor| Factor { matrix: unplaced(factor.matrix), ..factor };
        let addresses = [product.right.matrix.address, product.left.matrix.address, product.out.address];
        Shape {
            product: Product {
                left: factor(product.left),
                right: factor(product.right),
                out: unplaced(product.out),
                bias: product.bias.map(|_| 0),
                workspace: 0,
                ..*product
            },
            // No algorithm asks for more than 256.
            alignments: addresses.map(|address| 1 << address.trailing_zeros().min(8)),
        }
    }
}

/// What a product of one shape needs.
struct Prepared {
    functions: Functions,
    description: Opaque,
    /// Of the library's first and second factor, and of the product.
    layouts: [Opaque; 3],
    algorithm: Algorithm,
}

impl Drop for Prepared {
    fn drop(&mut self) {
        // SAFETY: these are this value's own; those that were not made are null.
        unsafe {
            if !self.description.is_null() {
                (self.functions.destroy_description)(self.description);
            }
            for layout in self.layouts.into_iter().filter(|layout| !layout.is_null()) {
                (self.functions.destroy_layout)(layout);
            }
        }
    }
}

impl Products {
    /// For cudarc's context, which it makes current on this thread.
    ///
    /// # Errors
    ///
    /// [`Error::NoCublasLt`], [`Error::Cublas`] if the library does not start, and [`Error::Driver`].
    pub fn new(context: &Arc<CudaContext>) -> Result<Self> {
        driver("cuCtxSetCurrent", context.bind_to_thread())?;
        let mut products = Products::load_current()?;
        products.owner = Some(context.clone());
        Ok(products)
    }

    /// For the device of the context that is current on this thread, whoever made it.
    ///
    /// # Errors
    ///
    /// Those of [`Products::new`], [`Error::NoDriver`], and [`Error::Driver`], also where no context is current.
    pub fn load_current() -> Result<Self> {
        let functions = Functions::load(&LIBRARIES)?;
        require_driver()?;
        let context = driver("cuCtxGetCurrent", result::ctx::get_current())?.ok_or_else(no_context)?;
        // SAFETY: a valid place to write to.
        let handle = created("cublasLtCreate", |handle| unsafe { (functions.create)(handle) })?;
        Ok(Products { functions, handle, context, owner: None, prepared: Mutex::default() })
    }

    /// Prepares for the products of a plan, so that none of its runs does.
    ///
    /// # Errors
    ///
    /// [`Error::Cublas`], also where the library has no algorithm for a product.
    pub fn prepare(&self, plan: &Plan) -> Result<()> {
        let mut prepared = self.prepared();
        plan.products().try_for_each(|product| self.find(&mut prepared, product).map(|_| ()))
    }

    /// The context whose products these are.
    pub(super) fn context(&self) -> CUcontext {
        self.context
    }

    fn prepared(&self) -> MutexGuard<'_, HashMap<Shape, Prepared>> {
        // Nothing panics between two changes of it.
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find<'a>(
        &self,
        prepared: &'a mut HashMap<Shape, Prepared>,
        product: &Product,
    ) -> Result<&'a mut Prepared> {
        let shape = Shape::of(product);
        Ok(match prepared.entry(shape) {
            Entry::Occupied(found) => found.into_mut(),
            Entry::Vacant(place) => place.insert(Prepared::new(self, &shape)?),
        })
    }

    /// Runs one product, asynchronously.
    ///
    /// # Safety
    ///
    /// That of [`Kernels::launch`](super::Kernels::launch), for the matrices, the bias and the workspace of the product.
    pub(super) unsafe fn run(&self, product: &Product, stream: CUstream) -> Result<()> {
        let mut prepared = self.prepared();
        let Prepared { description, layouts: [a, b, c], algorithm, .. } =
            *self.find(&mut prepared, product)?;
        if let Some(bias) = product.bias {
            let address = bias as *const c_void;
            // SAFETY: the attribute is a pointer.
            unsafe { set(self.functions.describe, description, BIAS, &address) }?;
        }
        let address = |address: u64| address as *mut c_void;
        let out = address(product.out.address);
        let beta: f32 = if product.accumulate { 1.0 } else { 0.0 };
        // SAFETY: description, layouts and algorithm were made for this shape, and nobody changes them meanwhile; the rest is the
        // caller's promise. The two numbers are read before the call returns.
        let status = unsafe {
            (self.functions.multiply)(
                self.handle,
                description,
                &1.0,
                address(product.right.matrix.address),
                a,
                address(product.left.matrix.address),
                b,
                &beta,
                out,
                c,
                out,
                c,
                &algorithm,
                address(product.workspace),
                product.workspace_bytes,
                stream.cast(),
            )
        };
        check("cublasLtMatmul", status)
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        self.prepared().clear();
        // SAFETY: the handle is this value's own.
        unsafe { (self.functions.destroy)(self.handle) };
        drop(self.owner.take());
    }
}

/// Sets an attribute.
///
/// # Safety
///
/// `function` takes attributes of `of`, and the attribute is a `T`.
unsafe fn set<T>(
    function: unsafe extern "C" fn(Opaque, c_int, *const c_void, usize) -> Status,
    of: Opaque,
    attribute: c_int,
    value: &T,
) -> Result<()> {
    // SAFETY: the caller's promise.
    let status = unsafe { function(of, attribute, ptr::from_ref(value).cast(), size_of::<T>()) };
    check("cublasLtSetAttribute", status)
}

fn data_type(dtype: DType) -> c_int {
    match dtype {
        DType::F32 => TYPE_F32,
        DType::F16 => TYPE_F16,
        DType::BF16 => TYPE_BF16,
    }
}

impl Prepared {
    /// The library's matrices have columns where ours have rows, so that each is the transpose of what is in memory: the product's
    /// transpose is that of the right factor times that of the left one.
    fn new(products: &Products, shape: &Shape) -> Result<Self> {
        let (functions, product) = (products.functions, &shape.product);
        let mut prepared = Prepared {
            functions,
            description: ptr::null_mut(),
            layouts: [ptr::null_mut(); 3],
            algorithm: Choice::NONE.algorithm,
        };
        prepared.description = created("cublasLtMatmulDescCreate", |description| {
            // SAFETY: a valid place to write to.
            unsafe { (functions.create_description)(description, COMPUTE_F32, TYPE_F32) }
        })?;
        let transposed = [product.right.transposed, product.left.transposed].map(c_int::from);
        // SAFETY: the attributes have these types.
        unsafe {
            set(functions.describe, prepared.description, TRANSPOSE_A, &transposed[0])?;
            set(functions.describe, prepared.description, TRANSPOSE_B, &transposed[1])?;
            if product.bias.is_some() {
                set(functions.describe, prepared.description, EPILOGUE, &EPILOGUE_BIAS)?;
            }
        }
        let matrices = [product.right.matrix, product.left.matrix, product.out];
        for (layout, matrix) in prepared.layouts.iter_mut().zip(matrices) {
            let (rows, columns) = (matrix.columns as u64, matrix.rows as u64);
            *layout = created("cublasLtMatrixLayoutCreate", |layout| {
                let (dtype, stride) = (data_type(matrix.dtype), matrix.row_stride as i64);
                // SAFETY: a valid place to write to.
                unsafe { (functions.create_layout)(layout, dtype, rows, columns, stride) }
            })?;
        }
        let preference = created("cublasLtMatmulPreferenceCreate", |preference| {
            // SAFETY: a valid place to write to.
            unsafe { (functions.create_preference)(preference) }
        })?;
        let choice = prepared.choose(products, shape, preference);
        // SAFETY: it was made above, and nothing uses it any more.
        unsafe { (functions.destroy_preference)(preference) };
        prepared.algorithm = choice?.algorithm;
        Ok(prepared)
    }

    /// What the library's heuristic puts first.
    fn choose(&self, products: &Products, shape: &Shape, preference: Opaque) -> Result<Choice> {
        let functions = self.functions;
        let [a, b, c] = self.layouts;
        let [of_a, of_b, of_c] = shape.alignments;
        // SAFETY: the attributes have these types.
        unsafe {
            let most = shape.product.workspace_bytes as u64;
            set(functions.prefer, preference, MOST_WORKSPACE_BYTES, &most)?;
            set(functions.prefer, preference, REDUCTION_SCHEMES, &REDUCTION_IN_WORKSPACE)?;
            for (attribute, alignment) in ALIGNMENTS.into_iter().zip([of_a, of_b, of_c, of_c]) {
                set(functions.prefer, preference, attribute, &alignment)?;
            }
        }
        let (mut choice, mut found) = (Choice::NONE, 0);
        // SAFETY: there is room for one choice, and everything else was made for this shape.
        let status = unsafe {
            (functions.choose)(
                products.handle,
                self.description,
                a,
                b,
                c,
                c,
                preference,
                1,
                &mut choice,
                &mut found,
            )
        };
        check("cublasLtMatmulAlgoGetHeuristic", status)?;
        if found == 0 {
            return Err(Error::Cublas { call: "cublasLtMatmulAlgoGetHeuristic", status: NOT_SUPPORTED });
        }
        check("cublasLtMatmulAlgoGetHeuristic", choice.status)?;
        Ok(choice)
    }
}
