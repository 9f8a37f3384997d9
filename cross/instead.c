/* What is linked instead of functions of musl and of ring that cost too much, or don't work. */

#include <pthread.h>
#include <sys/prctl.h>
#include <unistd.h>

/* On MIPS musl's is written for programs without fixed addresses, and ends another one with a bus error. There is nothing
   to find in a static program, and this says so. */
void *dlsym(void *restrict library, const char *restrict name) {
  (void)library;
  (void)name;
  return 0;
}

/* musl's can name other threads, and has printf for that: 12 kB. A thread of Rust's names itself. */
int pthread_setname_np(pthread_t thread, const char *name) {
  (void)thread;
  return prctl(PR_SET_NAME, (unsigned long)name, 0UL, 0UL, 0UL);
}

/* musl's knows all there is to know of a system, in 1.3 kB. The standard library asks for the size of a page. */
long sysconf(int name) { return name == _SC_PAGESIZE ? getpagesize() : -1; }

#ifdef RING
/* On aarch64 and x86_64 ring has a table of 150 kB to multiply the base point of P-256 faster than other points: 24 us of a
   handshake on a PC. What needs it goes by other names (cross/build), and the base point is one like others here, as ring
   has it for P-384. Its coordinates are in Montgomery form, as they are in the table. */
typedef unsigned long limbs[4];
void multiply(limbs product[3], const limbs scalar, const limbs x, const limbs y) __asm__(RING "p256_point_mul");
void multiply_base(limbs product[3], const limbs scalar) __asm__(RING "p256_point_mul_base");
void multiply_base_vartime(limbs product[3], const limbs scalar) __asm__(RING "p256_point_mul_base_vartime");

void multiply_base(limbs product[3], const limbs scalar) {
  static const limbs x = {0x79e730d418a9143c, 0x75ba95fc5fedb601, 0x79fb732b77622510, 0x18905f76a53755c6};
  static const limbs y = {0xddf25357ce95560a, 0x8b4ab8e4ba19e45c, 0xd2e88688dd21f325, 0x8571ff1825885d85};
  multiply(product, scalar, x, y);
}

void multiply_base_vartime(limbs product[3], const limbs scalar) { multiply_base(product, scalar); }
#endif

#if defined(__arm__) && __ARM_ARCH == 6
/* What Thumb of ARMv6 calls, since its instructions know of no atomic ones; these are ARM's (the mini program is Thumb). */
#define ATOMIC(name, bytes, number, body)                                                                                       \
  number name##_##bytes(volatile number *place, number value) __asm__("__sync_" #name "_" #bytes);                             \
  number name##_##bytes(volatile number *place, number value) { return body(place, value, __ATOMIC_SEQ_CST); }

#define ATOMICS(bytes, number)                                                                                                  \
  ATOMIC(fetch_and_add, bytes, number, __atomic_fetch_add)                                                                      \
  ATOMIC(fetch_and_sub, bytes, number, __atomic_fetch_sub)                                                                      \
  ATOMIC(fetch_and_and, bytes, number, __atomic_fetch_and)                                                                      \
  ATOMIC(fetch_and_or, bytes, number, __atomic_fetch_or)                                                                        \
  ATOMIC(fetch_and_xor, bytes, number, __atomic_fetch_xor)                                                                      \
  ATOMIC(lock_test_and_set, bytes, number, __atomic_exchange_n)                                                                 \
  number compare_##bytes(volatile number *place, number old, number new) __asm__("__sync_val_compare_and_swap_" #bytes);        \
  number compare_##bytes(volatile number *place, number old, number new) {                                                      \
    __atomic_compare_exchange_n(place, &old, new, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                                       \
    return old;                                                                                                                \
  }

ATOMICS(1, unsigned char)
ATOMICS(2, unsigned short)
ATOMICS(4, unsigned)
ATOMICS(8, unsigned long long)

void fence(void) __asm__("__sync_synchronize");
void fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
#endif
