//! `min` and `max` of floats that do not depend on the order of their input.
//!
//! DataFusion compares floats as IEEE 754 does, and takes whatever comes after a NaN: its result, in one pass too, depends
//! on the order of the rows, so no two layers could agree on it. Here, as in PostgreSQL, NaN is greater than all other
//! values, and all NaN are one; -0.0 is below 0.0. Without NaN, infinities and zeros the results are DataFusion's.

use std::cmp::Ordering;
use std::sync::{Mutex, PoisonError};

use arrow::array::ArrayRef;
use arrow::datatypes::{ArrowPrimitiveType, DataType, Float32Type, Float64Type};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{
    Accumulator, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, TypeSignature, Volatility,
};
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::prim_op::PrimitiveGroupsAccumulator;

/// Whether values of the type have an order of their own here.
pub(super) fn is_float(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Float32 | DataType::Float64)
}

/// `min` or `max` of FLOAT and DOUBLE. The state is the extreme so far.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct FloatExtreme {
    /// The side of the current extreme on which a value replaces it.
    replaces: Replaces,
    signature: Signature,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Replaces {
    Below,
    Above,
}

impl FloatExtreme {
    /// The function of this name, if it is one of the two.
    pub(super) fn of_name(name: &str) -> Option<FloatExtreme> {
        let replaces = match name {
            "min" => Replaces::Below,
            "max" => Replaces::Above,
            _ => return None,
        };
        let types = [DataType::Float32, DataType::Float64].map(|float| TypeSignature::Exact(vec![float]));
        Some(FloatExtreme { replaces, signature: Signature::one_of(types.to_vec(), Volatility::Immutable) })
    }

    fn groups(&self, data_type: &DataType) -> Result<Box<dyn GroupsAccumulator>> {
        match data_type {
            DataType::Float32 => Ok(self
                .groups_of::<Float32Type>(f32::NAN, f32::NEG_INFINITY, |a, b| total_order(f64::from(a), f64::from(b)))),
            DataType::Float64 => Ok(self.groups_of::<Float64Type>(f64::NAN, f64::NEG_INFINITY, total_order)),
            other => Err(DataFusionError::Internal(format!("the extreme of floats was asked for {other}"))),
        }
    }

    fn groups_of<T: ArrowPrimitiveType + Send>(
        &self,
        greatest: T::Native,
        least: T::Native,
        order: impl Fn(T::Native, T::Native) -> Ordering + Send + Sync + 'static,
    ) -> Box<dyn GroupsAccumulator> {
        let (wanted, start) = match self.replaces {
            Replaces::Below => (Ordering::Less, greatest),
            Replaces::Above => (Ordering::Greater, least),
        };
        let replace = move |extreme: &mut T::Native, value: T::Native| {
            if order(value, *extreme) == wanted {
                *extreme = value;
            }
        };
        Box::new(PrimitiveGroupsAccumulator::<T, _>::new(&T::DATA_TYPE, replace).with_starting_value(start))
    }
}

/// All NaN are one, and greater than all else.
fn total_order(a: f64, b: f64) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (false, false) => a.total_cmp(&b),
        (a, b) => a.cmp(&b),
    }
}

impl AggregateUDFImpl for FloatExtreme {
    fn name(&self) -> &str {
        match self.replaces {
            Replaces::Below => "min",
            Replaces::Above => "max",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments {
            [float] if is_float(float) => Ok(float.clone()),
            _ => Err(DataFusionError::Plan(format!("{}() of floats was asked for {arguments:?}", self.name()))),
        }
    }

    fn accumulator(&self, arguments: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(OneGroup(Mutex::new(self.groups(arguments.return_field.data_type())?))))
    }

    fn groups_accumulator_supported(&self, _arguments: AccumulatorArgs) -> bool {
        true
    }

    fn create_groups_accumulator(&self, arguments: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        self.groups(arguments.return_field.data_type())
    }
}

/// A grouping accumulator for one group. The lock is for its type, which may not be shared; nobody waits for it.
struct OneGroup(Mutex<Box<dyn GroupsAccumulator>>);

impl OneGroup {
    fn groups(&mut self) -> &mut dyn GroupsAccumulator {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut()
    }
}

impl std::fmt::Debug for OneGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OneGroup")
    }
}

impl Accumulator for OneGroup {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let groups = vec![0; values.first().map_or(0, |values| values.len())];
        self.groups().update_batch(values, &groups, None, 1)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let groups = vec![0; states.first().map_or(0, |states| states.len())];
        self.groups().merge_batch(states, &groups, 1)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        ScalarValue::try_from_array(&self.groups().evaluate(EmitTo::All)?, 0)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn size(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).size()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{AsArray, Float64Array};

    use super::*;

    const VALUES: [f64; 7] = [0.0, f64::NAN, 11.875, -0.0, f64::NEG_INFINITY, -f64::NAN, f64::INFINITY];

    fn extreme(name: &str, values: &[f64], merged: bool) -> Result<Option<f64>> {
        let function = FloatExtreme::of_name(name).map(|function| function.groups(&DataType::Float64));
        let mut groups = function.ok_or_else(|| DataFusionError::Internal(name.to_owned()))??;
        for value in values {
            let value: ArrayRef = Arc::new(Float64Array::from(vec![Some(*value), None]));
            match merged {
                true => groups.merge_batch(&[value], &[0, 0], 1)?,
                false => groups.update_batch(&[value], &[0, 0], None, 1)?,
            }
        }
        let result = groups.evaluate(EmitTo::All)?;
        Ok(result.as_primitive::<Float64Type>().iter().next().flatten())
    }

    #[test]
    fn extremes_do_not_depend_on_the_order_of_values() -> Result<()> {
        let mut values = VALUES;
        for turn in 0..values.len() * 2 {
            values.rotate_left(1);
            if turn == values.len() {
                values.reverse();
            }
            for merged in [false, true] {
                assert_eq!(extreme("min", &values, merged)?, Some(f64::NEG_INFINITY));
                assert!(extreme("max", &values, merged)?.is_some_and(f64::is_nan));
            }
        }
        Ok(())
    }

    #[test]
    fn the_ends_of_the_order_are_found_when_they_are_alone() -> Result<()> {
        for name in ["min", "max"] {
            assert_eq!(extreme(name, &[f64::INFINITY], false)?, Some(f64::INFINITY));
            assert_eq!(extreme(name, &[f64::NEG_INFINITY], false)?, Some(f64::NEG_INFINITY));
            assert!(extreme(name, &[-f64::NAN], false)?.is_some_and(f64::is_nan));
        }
        let zero = |name, values: &[f64]| Ok::<_, DataFusionError>(extreme(name, values, false)?.map(f64::to_bits));
        for values in [[0.0, -0.0], [-0.0, 0.0]] {
            assert_eq!(zero("min", &values)?, Some((-0.0f64).to_bits()));
            assert_eq!(zero("max", &values)?, Some(0.0f64.to_bits()));
        }
        Ok(())
    }
}
