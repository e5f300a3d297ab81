// libdaxfs: copying from and into the pool. What is stored is durable when this returns; where the
// storage below a page has gone, a copy says so instead of killing the process.
#pragma once

#include <cstddef>

namespace daxfs::client {

// Whether this CPU's stores can be made durable here.
bool can_copy_durably();
// Once, before the first copy: takes SIGBUS, and hands on what comes from elsewhere.
bool catch_lost_storage();

// False: there is no storage below (some of) it. The bytes before may have been copied. `pool` and
// `length` say where such a fault can come from.
bool copy_out(void* to, const std::byte* from, std::size_t length);
bool copy_in(std::byte* to, const void* from, std::size_t length);

}  // namespace daxfs::client
