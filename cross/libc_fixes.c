/* Functions of musl that do not work in a program with fixed addresses (cross/build links this for MIPS). */

/* musl 1.2.5 in Zig 0.15: its dlsym for MIPS (src/ldso/mips/dlsym.s) is written for position-independent code, and ends a
   static program with a bus error. Rust's standard library and rustix call it to look for newer system calls, before the
   first request: every test of cross/check mips fails without this. In a static program there is nothing to find. */
void *dlsym(void *restrict library, const char *restrict name) {
  (void)library;
  (void)name;
  return 0;
}
