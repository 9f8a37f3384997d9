/* What is linked instead of functions of musl and of ring that cost too much, or don't work. */

#include <pthread.h>
#include <sys/prctl.h>

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
