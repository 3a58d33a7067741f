/* Interleaved rANS, as modelsync_protocol/codecs/rans.py and modelsync_server/tensors/rans_writer.py.
 * 32-bit states, 16-bit words, 12-bit tables (J. Duda, arXiv:1311.2540; F. Giesen, arXiv:1402.3392). */
#include "core.h"

#define LOWEST (1u << 16)
#define BITS 12

EXPORT uint32_t modelsync_core_abi(void) { return ABI; }

/* Replace each of `total` table numbers in `selectors` by the symbol that it decodes to, lane by lane in turn.
 * `slots`: tables · 4096 entries, frequency − 1 in bits 0–11, distance from the symbol's first slot in 12–23, symbol above.
 * `state` holds the lanes' states, and what is left of them afterwards. Behind `count` words one more must be readable. */
EXPORT int modelsync_core_rans_decode(const uint32_t *slots, uint32_t tables, uint8_t *selectors, size_t total,
                                      uint32_t *state, size_t lanes, const uint16_t *words, size_t count) {
  size_t used = 0;
  for (size_t begin = 0; begin < total; begin += lanes) {
    const size_t width = total - begin < lanes ? total - begin : lanes;
    uint8_t *row = selectors + begin;
    const int plenty = count - used >= width;
    for (size_t lane = 0; lane < width; lane++) {
      const uint32_t table = row[lane];
      if (table >= tables) return DOES_NOT_END;
      uint32_t now = state[lane];
      const uint32_t slot = slots[(table << BITS) | (now & ((1u << BITS) - 1))];
      row[lane] = (uint8_t)(slot >> 24);
      now = ((slot & 4095) + 1) * (now >> BITS) + ((slot >> BITS) & 4095);
      if (plenty) { /* without a branch: whether a lane is refilled is what nobody can predict */
        const uint32_t short_of = now < LOWEST;
        now = now << (short_of << 4) | (words[used] & (0 - short_of));
        used += short_of;
      } else if (now < LOWEST) {
        if (used == count) return CUT_SHORT;
        now = (now << 16) | words[used++];
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
