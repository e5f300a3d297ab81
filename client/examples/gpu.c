/* gpu FILE: a GPU that writes into the blocks of a file while somebody punches them.
 *
 * Pins 16 MiB of FILE, maps the blocks, registers them with CUDA (cuMemHostRegister), and lets the
 * GPU write into them. A second process punches a hole into the range meanwhile: the mount's policy
 * decides what becomes of that. The GPU writes again; then every byte is checked. The driver is
 * loaded at run time, so this needs no toolkit to be compiled; without a driver or a GPU it says
 * what is missing, and ends with status 77.
 *
 * cc gpu.c $(pkg-config --cflags --libs daxfs) -ldl -o gpu
 */
#define _GNU_SOURCE
#include <daxfs.h>
#include <dlfcn.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { kLength = 16 << 20, kMissing = 77 };

/* Of cuda.h; the driver's interface is the same since CUDA 4. */
typedef int (*init_fn)(unsigned flags);
typedef int (*device_fn)(int* device, int ordinal);
typedef int (*name_fn)(char* name, int room, int device);
typedef int (*context_fn)(void** context, unsigned flags, int device);
typedef int (*register_fn)(void* memory, size_t length, unsigned flags);
typedef int (*pointer_fn)(unsigned long long* device, void* memory, unsigned flags);
typedef int (*set_fn)(unsigned long long device, unsigned char value, size_t length);
typedef int (*unregister_fn)(void* memory);
typedef int (*wait_fn)(void);
typedef int (*error_fn)(int code, const char** text);

static void* driver;

static void* symbol(const char* name) {
  void* found = dlsym(driver, name);
  if (found == NULL)
    errx(kMissing, "missing here: %s in libcuda.so.1: the driver is too old", name);
  return found;
}

static void check(int code, const char* what) {
  const char* text = "?";
  if (code == 0) return;
  ((error_fn)symbol("cuGetErrorString"))(code, &text);
  errx(1, "%s: %s", what, text);
}

/* As another program would, by name. Its exit status is the errno. */
static pid_t begin_punch(const char* path) {
  const pid_t child = fork();
  if (child != 0) return child;
  const int fd = open(path, O_RDWR);
  if (fd < 0) _exit(errno);
  _exit(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kLength / 2) == 0 ? 0 : errno);
}

int main(int count, char** words) {
  if (count != 2) errx(2, "usage: gpu FILE; a file in a daxfs mount, made if it is missing");
  driver = dlopen("libcuda.so.1", RTLD_NOW);
  if (driver == NULL)
    errx(kMissing, "missing here: libcuda.so.1, which comes with NVIDIA's driver");
  if (((init_fn)symbol("cuInit"))(0) != 0)
    errx(kMissing, "missing here: a GPU that the driver can use");
  int device;
  char name[256] = "?";
  if (((device_fn)symbol("cuDeviceGet"))(&device, 0) != 0) errx(kMissing, "missing here: a GPU");
  ((name_fn)symbol("cuDeviceGetName"))(name, sizeof name, device);

  const int fd = open(words[1], O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  uint64_t pin;
  size_t length;
  if (fd < 0) err(1, "%s", words[1]);
  if (daxfs_pin(fd, 0, kLength, DAXFS_PIN_WRITE | DAXFS_PIN_ALLOCATE, &pin) != 0)
    err(1, "%s: pin", words[1]);
  char* memory = daxfs_map(fd, pin, &length);
  if (memory == NULL) err(1, "%s: map", words[1]);

  void* context;
  unsigned long long on_gpu;
  check(((context_fn)symbol("cuCtxCreate_v2"))(&context, 0, device), "a context");
  const int refused =
      ((register_fn)symbol("cuMemHostRegister_v2"))(memory, length, 2 /* DEVICEMAP */);
  check(refused,
        "cuMemHostRegister of the pinned blocks (docs/pins-and-devices.md says which memory "
        "devices take)");
  check(((pointer_fn)symbol("cuMemHostGetDevicePointer_v2"))(&on_gpu, memory, 0),
        "the GPU's address");
  const set_fn set = (set_fn)symbol("cuMemsetD8_v2");
  const wait_fn wait_for_gpu = (wait_fn)symbol("cuCtxSynchronize");

  check(set(on_gpu, 'G', length), "the GPU writes");
  const pid_t puncher = begin_punch(words[1]);
  usleep(200000); /* long enough for a refusal or a deferral; a punch that waits is still there */
  check(set(on_gpu, 'H', length), "the GPU writes again");
  check(wait_for_gpu(), "waiting for the GPU");
  int status;
  const int waits = waitpid(puncher, &status, WNOHANG) == 0;
  for (size_t i = 0; i < length; ++i) {
    if (memory[i] != 'H') errx(3, "FOREIGN BYTES at %zu", i);
  }
  check(((unregister_fn)symbol("cuMemHostUnregister"))(memory), "cuMemHostUnregister");
  daxfs_unmap(memory, length);
  if (daxfs_unpin(fd, pin) != 0) err(1, "unpin");
  if (waits && waitpid(puncher, &status, 0) < 0) err(1, "waitpid");
  printf("%s wrote 2 x %zu MiB into pinned blocks; every byte is its own\n", name, length >> 20);
  printf("the punch beside it: %s%s\n", waits ? "waited for us, then: " : "",
         strerror(WEXITSTATUS(status)));
  return 0;
}
