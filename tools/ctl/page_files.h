// The files of the live page (page/), as they are in the program: made at build time.
#pragma once

#include <span>
#include <string_view>

namespace daxfs::ctl {

struct PageFile {
  std::string_view name;
  std::string_view type;  // as HTTP says it
  std::string_view text;
};

std::span<const PageFile> page_files();

}  // namespace daxfs::ctl
