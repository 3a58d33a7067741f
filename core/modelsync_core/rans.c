/* Interleaved rANS, as modelsync_protocol/codecs/rans.py and modelsync_server/tensors/rans_writer.py.
 * 32-bit states, 16-bit words, 12-bit tables (J. Duda, arXiv:1311.2540; F. Giesen, arXiv:1402.3392). */
#include "core.h"

#define LOWEST (1u << 16)
#define BITS 12

EXPORT uint32_t modelsync_core_abi(void) { return ABI; }

#ifdef AVX2
/* Whole rows of eight lanes at a time, as long as words are plenty; returns how many symbols are decoded, SIZE_MAX where
 * a table is asked for that is not there. `order` says for
 * each set of lanes that are refilled which of the next words each takes. */
AVX2 static size_t decode_rows(const uint32_t *slots, uint32_t tables, uint8_t *selectors, size_t total, uint32_t *state,
                               size_t lanes, const uint8_t *words, size_t count, size_t *taken) {
  uint8_t order[256][8];
  for (unsigned set = 0; set < 256; set++)
    for (unsigned lane = 0, next = 0; lane < 8; lane++) order[set][lane] = (uint8_t)next, next += set >> lane & 1;
  const __m256i low = _mm256_set1_epi32(4095), one = _mm256_set1_epi32(1), last = _mm256_set1_epi32((int)tables - 1);
  const __m256i top = _mm256_set1_epi64x(0x0f0b0703); /* of each 32 bits the highest 8 */
  size_t used = 0, begin = 0;
  for (; total - begin >= lanes && count - used >= lanes + 8; begin += lanes) {
    __m256i beyond = _mm256_setzero_si256();
    for (size_t lane = 0; lane < lanes; lane += 8) {
      uint8_t *row = selectors + begin + lane;
      __m256i now = _mm256_loadu_si256((const __m256i *)(state + lane));
      const __m256i asked = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)row));
      const __m256i table = _mm256_min_epu32(asked, last);
      beyond = _mm256_or_si256(beyond, _mm256_xor_si256(asked, table));
      const __m256i place = _mm256_or_si256(_mm256_slli_epi32(table, BITS), _mm256_and_si256(now, low));
      const __m256i slot = _mm256_i32gather_epi32((const int *)slots, place, 4);
      const __m256i frequency = _mm256_add_epi32(_mm256_and_si256(slot, low), one);
      now = _mm256_add_epi32(_mm256_mullo_epi32(frequency, _mm256_srli_epi32(now, BITS)),
                             _mm256_and_si256(_mm256_srli_epi32(slot, BITS), low));
      const __m256i short_of = _mm256_cmpeq_epi32(_mm256_srli_epi32(now, 16), _mm256_setzero_si256());
      const unsigned set = (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(short_of));
      const __m256i next = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(words + 2 * used)));
      const __m256i taking = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)order[set]));
      const __m256i filled =
          _mm256_or_si256(_mm256_slli_epi32(now, 16), _mm256_permutevar8x32_epi32(next, taking));
      _mm256_storeu_si256((__m256i *)(state + lane), _mm256_blendv_epi8(now, filled, short_of));
      used += (unsigned)__builtin_popcount(set);
      const __m256i symbols = _mm256_shuffle_epi8(slot, top);
      store(row, (uint32_t)_mm256_extract_epi32(symbols, 0), 4);
      store(row + 4, (uint32_t)_mm256_extract_epi32(symbols, 4), 4);
    }
    if (!_mm256_testz_si256(beyond, beyond)) return SIZE_MAX;
  }
  *taken = used;
  return begin;
}
#endif

/* Replace each of `total` table numbers in `selectors` by the symbol that it decodes to, lane by lane in turn.
 * `slots`: tables · 4096 entries, frequency − 1 in bits 0–11, distance from the symbol's first slot in 12–23, symbol above.
 * `state` holds the lanes' states, and what is left of them afterwards; `words` need no alignment. */
EXPORT int modelsync_core_rans_decode(const uint32_t *slots, uint32_t tables, uint8_t *selectors, size_t total,
                                      uint32_t *state, size_t lanes, const uint8_t *words, size_t count) {
  size_t used = 0, begin = 0;
#ifdef AVX2
  if (lanes % 8 == 0 && total >= 4096 && tables && HAS_AVX2)
    begin = decode_rows(slots, tables, selectors, total, state, lanes, words, count, &used);
  if (begin == SIZE_MAX) return DOES_NOT_END;
#endif
  for (; begin < total; begin += lanes) {
    const size_t width = total - begin < lanes ? total - begin : lanes;
    uint8_t *row = selectors + begin;
    const int plenty = count - used > width; /* one more: it is read for lanes that don't take it too */
    for (size_t lane = 0; lane < width; lane++) {
      const uint32_t table = row[lane];
      if (table >= tables) return DOES_NOT_END;
      uint32_t now = state[lane];
      const uint32_t slot = slots[(table << BITS) | (now & ((1u << BITS) - 1))];
      row[lane] = (uint8_t)(slot >> 24);
      now = ((slot & 4095) + 1) * (now >> BITS) + ((slot >> BITS) & 4095);
      if (plenty) { /* without a branch: whether a lane is refilled is what nobody can predict */
        const uint32_t short_of = now < LOWEST;
        now = now << (short_of << 4) | ((uint32_t)load(words + 2 * used, 2) & (0 - short_of));
        used += short_of;
      } else if (now < LOWEST) {
        if (used == count) return CUT_SHORT;
        now = (now << 16) | (uint32_t)load(words + 2 * used++, 2);
      }
      state[lane] = now;
    }
  }
  if (used != count) return DOES_NOT_END;
  for (size_t lane = 0; lane < lanes; lane++)
    if (state[lane] < LOWEST || state[lane] >> 17) return DOES_NOT_END;
  return OK;
}

/* Encode `total` symbols given as frequency (1 to 4096) and first slot; `state` holds the lanes' seeds plus 2^16, and the
 * states that a decoder begins with afterwards. Words are written from the end of `words` (room for `total`) downwards, as a decoder
 * takes them; returns how many, or SIZE_MAX for a frequency of zero. */
EXPORT size_t modelsync_core_rans_encode(const uint32_t *frequencies, const uint32_t *starts, size_t total, uint32_t *state,
                                         size_t lanes, uint16_t *words) {
  size_t room = total;
  if (total == 0) return 0;
  for (size_t index = total; index-- > 0;) {
    const uint32_t frequency = frequencies[index];
    uint32_t now = state[index % lanes];
    if (frequency == 0) return SIZE_MAX;
    if ((now >> (32 - BITS)) >= frequency) {
      words[--room] = (uint16_t)now;
      now >>= 16;
    }
    const uint32_t quotient = now / frequency;
    state[index % lanes] = (quotient << BITS) + (now - quotient * frequency) + starts[index];
  }
  return total - room;
}
