// Random damage to an image, and which bytes it touched.
#pragma once

#include <functional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/corruption/image.h"

namespace daxfs::corruption {

class Damage {
 public:
  // Gives a number below the limit (0: any).
  using Choose = std::function<std::uint64_t(std::uint64_t limit)>;

  Damage(Image& image, Choose choose)
      : image_(image), medium_(*image.medium), choose_(std::move(choose)) {}
  Damage(Image& image, std::uint64_t seed)
      : Damage(image, [random = std::mt19937_64(seed)](std::uint64_t limit) mutable {
          return limit == 0 ? random() : random() % limit;
        }) {}

  // One to three damages of one kind each.
  void inflict();
  // A committed transaction that replay will apply: to some place, or where it must not.
  void forge_journal();

  const std::vector<Bytes>& touched() const { return touched_; }
  bool touches(const Bytes& bytes) const;
  bool touches(const std::vector<Bytes>& bytes) const;
  // Other records were made to claim what is not theirs (checksums fixed up).
  bool hostile() const { return hostile_; }
  const std::string& text() const { return text_; }

 private:
  void flip_bits();
  void zero_block();
  void garbage();
  void swap_blocks();
  void copy_block();
  void zero_line();
  void forge();
  void forge_inode(Known& victim);
  void forge_extent(Known& victim);
  void forge_extent_block(Known& victim);
  void forge_entry(std::uint64_t directory, Known& victim);
  void forge_xattrs(Known& fallback);  // of an inode that has some, if there is one
  void forge_index();
  void forge_state();
  void forge_superblock();
  void forge_pin();

  std::uint64_t below(std::uint64_t limit) { return choose_(limit); }
  std::uint64_t any_word() { return choose_(0); }
  // A block that somebody uses, or some metadata, or any.
  PoolBlock some_block();
  // Somewhere in a structure, rather than in file data.
  PoolOffset some_place();
  std::uint64_t some_number();
  Known& some_inode();
  PinSlot some_pin_slot() { return image_.pin_slots[below(image_.pin_slots.size())]; }
  void write(PoolOffset at, std::span<const std::byte> data, std::string what);
  template <class T>
  void replace(PoolOffset at, const T& object, std::size_t bytes, std::string what) {
    write(at, std::as_bytes(std::span(&object, 1)).first(bytes), std::move(what));
    hostile_ = true;
  }
  // Overwrites an aligned word or half-word of a record.
  void change_field(std::byte* record, std::size_t bytes);

  Image& image_;
  testing::ReversibleMedium& medium_;
  Choose choose_;
  std::vector<Bytes> touched_;
  bool hostile_ = false;
  std::string text_;
};

}  // namespace daxfs::corruption
