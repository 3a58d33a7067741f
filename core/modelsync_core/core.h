/* The hot loops of modelsync's encodings, exact to the bit: NumPy is the reference (modelsync_protocol/codecs), this is
 * the same, faster. Nothing here allocates, keeps state, or trusts a number that came from a payload: each function is given the
 * sizes of what it may touch, and says by its result what the reference says by FormatError. Little-endian machines only. */
#ifndef MODELSYNC_CORE_H
#define MODELSYNC_CORE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the core reads little-endian arrays in place; use the NumPy reference on this machine"
#endif

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))

/* Results; positive ones are what the reference raises FormatError for. */
enum { OK = 0, CUT_SHORT = 1, DOES_NOT_END = 2 };

/* Raised by one whenever there is another exported function, or an argument of one changes its meaning. */
#define ABI 4

/* A second copy of a loop for processors of the last ten years, chosen when it is called; others run the first. */
#if defined(__x86_64__)
#define AVX2 __attribute__((target("avx2,bmi,bmi2,f16c,lzcnt,popcnt")))
#include <immintrin.h>
#define HAS_AVX2 (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("f16c"))
#endif

INLINE uint64_t load(const uint8_t *place, unsigned width) {
  uint64_t value = 0;
  memcpy(&value, place, width);
  return value;
}

INLINE void store(uint8_t *place, uint64_t value, unsigned width) { memcpy(place, &value, width); }

/* How elements are typed; as numerals.Numeral. `mantissa`: stored bits of a float's, 0 for integers. */
typedef struct {
  uint32_t width, mantissa, is_signed, drop;
} numeral;

/* As numerals.shortened: order-preserving integer without its lowest `drop` bits. */
INLINE uint64_t shortened(uint64_t bits, unsigned width, numeral kind) {
  const uint64_t all = width == 8 ? ~0ull : (1ull << (8 * width)) - 1;
  if (kind.mantissa) {
    const uint64_t sign = 1ull << (8 * width - 1);
    bits ^= (bits & sign) ? all : sign;
  }
  return bits >> kind.drop;
}

/* As numerals.lengthened. */
INLINE uint64_t lengthened(uint64_t value, unsigned width, numeral kind) {
  const uint64_t all = width == 8 ? ~0ull : (1ull << (8 * width)) - 1;
  value = (value << kind.drop) & all;
  if (kind.mantissa) {
    const uint64_t sign = 1ull << (8 * width - 1);
    value ^= (value & sign) ? sign : all;
  }
  return value & (all << kind.drop);
}

enum { MODE_DELTA = 2, MODE_VALUE = 3 };
enum { IDENTITY = 0, GLOBAL = 1, ROW = 2, COLUMN = 3 };
#define CONTEXTS 120

/* 64 bits of a structure that hold an address here, whatever a pointer's size. */
#define ADDRESS(type, name) \
  union {                   \
    const type *name;       \
    uint64_t name##_address; \
  }

/* As adapted.Product (32-bit integers, `unit` 2^-precision) and adapted.Merged (binary32, `unit` its scale): `left` is rank ×
 * rows, `right` rank × columns; `first`: the segment's first element in the matrix, of which it must not reach the end. */
typedef struct {
  ADDRESS(void, left);
  ADDRESS(void, right);
  uint64_t rows, columns, first;
  double unit;
  uint32_t rank, merged;
} product;

#define NO_BASE UINT64_MAX

/* As segments.Coded; arrays have the lengths that segments.read gave them. native/core.py packs it, the same on all machines. */
typedef struct {
  uint64_t count, columns, column;
  uint64_t place, base;               /* bytes: where it begins in the frame, and in the base (or NO_BASE) */
  ADDRESS(uint8_t, rows);             /* levels by row, or NULL */
  ADDRESS(uint8_t, offsets);          /* levels by column from the first element's on, or NULL */
  ADDRESS(double, factors);           /* exact, for floats */
  ADDRESS(int32_t, slopes);           /* 16-bit fixed point, for 8-bit integers */
  ADDRESS(int32_t, shifts);
  ADDRESS(uint8_t, choose);           /* context → table, 120 entries */
  ADDRESS(product, added);            /* the base is changed by it first; or NULL */
  numeral kind;
  int32_t level;
  uint32_t mode, predictor, bias;     /* bias: the float's exponents' mask */
} segment;

/* product.c: predictions of a segment that has one; a result of the kind above. */
int adapted_segment(const segment *s, const uint8_t *base, uint8_t *out, uint8_t *selectors);

INLINE double half_to_double(uint16_t bits) {
  const unsigned exponent = (bits >> 10) & 31, mantissa = bits & 1023;
  const double size = exponent ? (double)(1024 + mantissa) : (double)mantissa;
  uint64_t power = (uint64_t)((exponent ? exponent : 1) - 25 + 1023) << 52;
  double scale;
  memcpy(&scale, &power, 8);
  return bits >> 15 ? -(size * scale) : size * scale;
}

INLINE uint16_t double_to_half(double value) {
  uint64_t bits;
  memcpy(&bits, &value, 8);
  const uint16_t sign = (uint16_t)(bits >> 63 << 15);
  bits &= ~(1ull << 63);
  double size;
  memcpy(&size, &bits, 8);
  if (!(size < 65520.0)) return sign | 0x7c00; /* NaN too: whoever asks wants to know what is finite */
  if (size < 0x1p-14) { /* subnormal: a whole number of 2^-24, half to even */
    volatile double shifted = size * 0x1p24 + 0x1p52;
    return sign | (uint16_t)(shifted - 0x1p52);
  }
  bits += (1ull << 41) - 1 + ((bits >> 42) & 1);
  return sign | (uint16_t)((bits >> 42) - ((1023 - 15) << 10));
}

#endif
