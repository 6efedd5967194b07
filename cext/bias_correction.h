/* 1 - beta^step in nothing but exactly specified operations: the same as in fastadam/step/bias_correction.py, in
 * the same order. */
#ifndef FASTADAM_BIAS_CORRECTION_H
#define FASTADAM_BIAS_CORRECTION_H

#include "numerics.h"

#include <math.h>
#include <stdint.h>

/* log_high + log_low is the logarithm of beta; log_high has 26 bits. NaN where step is not a positive number. */
static FASTADAM_INLINE double bias_correction(double log_high, double log_low, double step)
{
    /* The power series of the exponential function, 1 / n!. */
    static const double f3 = 1.0 / 6.0, f4 = 1.0 / 24.0, f5 = 1.0 / 120.0, f6 = 1.0 / 720.0, f7 = 1.0 / 5040.0,
                        f8 = 1.0 / 40320.0, f9 = 1.0 / 362880.0, f10 = 1.0 / 3628800.0, f11 = 1.0 / 39916800.0,
                        f12 = 1.0 / 479001600.0, f13 = 1.0 / 6227020800.0, f14 = 1.0 / 87178291200.0;
    /* x + x_low is the product of the step and the logarithm. */
    const double scaled = step * 134217729.0; /* 2^27 + 1 */
    const double step_high = scaled - (scaled - step);
    const double step_low = step - step_high;
    const double product = step_high * log_high;
    const double lower = step_low * log_high;
    const double total = product + lower;
    const double rest = ((product - total) + lower) + step * log_low;
    const double x = total + rest;
    const double x_low = (total - x) + rest;
    if (x <= -40.0) /* where beta^step is below half an ulp of 1 */
        return 1.0;
    if (!(x < 0.0))
        return NAN;
    /* exp(x) = 2^-halvings * (1 + z + tail). log(2) is the sum of two numbers, the first one of 40 bits. */
    const int64_t halvings = (int64_t)(x * -1.4426950408889634 + 0.5);
    const double near = x + (double)halvings * 0.6931471805592082;
    const double carried = (double)halvings * 7.371002565167799e-13 + x_low;
    const double z = near + carried;
    const double z_low = (near - z) + carried;
    const double square = z * z;
    const double even =
        (((((f14 * square + f12) * square + f10) * square + f8) * square + f6) * square + f4) * square + 0.5;
    const double odd = ((((f13 * square + f11) * square + f9) * square + f7) * square + f5) * square + f3;
    const double tail = (even + z * odd) * square + (z * z_low + z_low);
    const double scale = 1.0 / (double)((int64_t)1 << halvings);
    const double kept = 1.0 - scale;
    const double scaled_z = scale * z;
    const double found = kept - scaled_z;
    return found + (((kept - found) - scaled_z) - scale * tail);
}

#endif
