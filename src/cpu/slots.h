// SPDX-License-Identifier: Apache-2.0
// What the schedules' scratch has in common: a part that all share, then one for each slot; and batches of
// images.
#pragma once

#include <algorithm>

#include "execution.h"
#include "problem.h"

namespace tapfield::cpu {

// Base of Scratch, whose Slot(Carver&, const Problem&, const Scratch&) cuts off what one slot needs.
template <class Scratch>
struct Slotted {
  Carver slots;  // where the slots' own scratch begins

  auto slot(const Problem& p, int index) const {
    Carver carver = slots;
    for (int s = 0; s < index; ++s) cut(carver, p);
    return cut(carver, p);
  }

 protected:
  // The slots' part, behind what `shared` has cut off. used: bytes of all, if asked for.
  void carve_slots(const Carver& shared, const Problem& p, int count, std::size_t* used) {
    slots = shared;
    Carver carver = shared;
    for (int s = 0; s < count; ++s) cut(carver, p);
    if (used) *used = carver.used();
  }

  // Both parts, by Scratch::carve(Carver&, const Problem&, int slots), for as many images (Scratch::images)
  // as `bytes` of the shared part hold: small ones are worked on together.
  void carve_batch(Carver carver, const Problem& p, int count, std::size_t bytes, std::size_t* used) {
    auto& self = static_cast<Scratch&>(*this);
    self.images = 1;
    Carver one;
    self.carve(one, p, 1);
    self.images = std::clamp<std::int64_t>(
        static_cast<std::int64_t>(bytes / std::max<std::size_t>(one.used(), 1)), 1, p.n);
    self.carve(carver, p, count);
    carve_slots(carver, p, count, used);
  }

 private:
  auto cut(Carver& carver, const Problem& p) const {
    return typename Scratch::Slot(carver, p, static_cast<const Scratch&>(*this));
  }
};

}  // namespace tapfield::cpu
