"""Counts the blocks that are in use in a pool, from docs/format.md alone: a second opinion on the free space."""

import mmap
import os
import stat
import struct

from harness import BLOCK, check

SUPERBLOCK = struct.Struct("<8sIIQQ16sQQIIQQQ")
POOL_STATE = struct.Struct("<IIQQ")
INODE = struct.Struct("<IIIHHIIQQQQQQQQQ")
EXTENT = struct.Struct("<QQIIII")
EXTENT_BLOCK = struct.Struct("<IIQQQ")
INDEX_BLOCK = struct.Struct("<IIQIIQ")
INODE_BYTES, CHUNK_BLOCKS = 256, 64
INODES_IN_CHUNK = CHUNK_BLOCKS * BLOCK // INODE_BYTES


def size_of(path):
    """A device-DAX node's size is in sysfs only."""
    status = os.stat(path)
    if not stat.S_ISCHR(status.st_mode):
        return status.st_size
    number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    with open(f"/sys/dev/char/{number}/size", encoding="ascii") as file:
        return int(file.read())


class PoolReader:
    def __init__(self, path):
        with open(path, "rb") as file:
            self.view = mmap.mmap(file.fileno(), size_of(path), prot=mmap.PROT_READ)
        (magic, version, *_, self.region_start, self.region_chunks, self.data_start) = SUPERBLOCK.unpack_from(self.view)
        check(magic == b"DAXFSPM1" and version == 2, f"{path}: magic {magic}, version {version}")
        self.owners = {}
        self.file_blocks = 0

    def count(self):
        """Blocks of the data area that are in use, each by one owner; sets file_blocks to those with contents."""
        _, _, chunks, index = POOL_STATE.unpack_from(self.view, BLOCK)
        starts = [self.region_start + i * CHUNK_BLOCKS for i in range(min(chunks, self.region_chunks))]
        while index:
            self.own(index, 1, "the inode index")
            *_, following, listed, _, _ = INDEX_BLOCK.unpack_from(self.view, index * BLOCK)
            for i in range(listed):
                (start,) = struct.unpack_from("<Q", self.view, index * BLOCK + INDEX_BLOCK.size + 8 * i)
                self.own(start, CHUNK_BLOCKS, "an inode chunk")
                starts.append(start)
            index = following
        for i, start in enumerate(starts):
            for slot in range(INODES_IN_CHUNK):
                self.count_inode(start * BLOCK + slot * INODE_BYTES, i * INODES_IN_CHUNK + slot + 1)
        self.view.close()
        return len(self.owners)

    def own(self, start, count, owner):
        for block in range(start, start + count):
            check(block >= self.data_start, f"{owner} has block {block}, outside the data area")
            check(block not in self.owners, f"block {block} belongs to {self.owners.get(block)} and to {owner}")
            self.owners[block] = owner

    def count_inode(self, at, number):
        (*_, mode, _, _, _, _, _, blocks, chain, xattr_block, xattr_bytes, _, _, _) = INODE.unpack_from(self.view, at)
        if mode == 0:
            return
        owner = f"inode {number}"
        mapped = self.count_extents(at + 128, 4, owner)
        while chain:
            self.own(chain, 1, owner)
            mapped += self.count_extents(chain * BLOCK + EXTENT_BLOCK.size, 127, owner)
            *_, chain, _ = EXTENT_BLOCK.unpack_from(self.view, chain * BLOCK)
        check(mapped == blocks, f"{owner} has {mapped} blocks, and says {blocks}")
        self.own(xattr_block, -(-xattr_bytes // BLOCK), owner)
        self.file_blocks += mapped

    def count_extents(self, at, slots, owner):
        mapped = 0
        for i in range(slots):
            _, start, count, *_ = EXTENT.unpack_from(self.view, at + i * EXTENT.size)
            self.own(start, count, owner)
            mapped += count
        return mapped
