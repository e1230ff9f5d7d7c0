// The conformance suite's kernels: what each does stands in unify.testing.spec.KERNELS.

#define I ((int)get_global_id(0))
#define IS_FIRST (get_local_id(0) == 0 && get_local_id(1) == 0 && get_local_id(2) == 0)

kernel void fill(global int* x, int n, int value) {
  if (I < n) x[I] = value;
}

kernel void copy(global const int* x, global int* out, int n) {
  if (I < n) out[I] = x[I];
}

kernel void affine(global int* x, int n, int factor, int shift) {
  if (I < n) x[I] = x[I] * factor + shift;
}

kernel void add(global const float* x, global const float* y, global float* out, int n) {
  if (I < n) out[I] = x[I] + y[I];
}

kernel void place(global int* out) {
  int x = get_group_id(0), y = get_group_id(1), z = get_group_id(2);
  if (IS_FIRST) out[(z * get_num_groups(1) + y) * get_num_groups(0) + x] = x + 100 * y + 10000 * z;
}

kernel void numbers(global long* integers, char a, long b, short c, int d, global double* reals, float e, double f,
                    char g) {
  if (!IS_FIRST) return;
  integers[0] = a;
  integers[1] = b;
  integers[2] = c;
  integers[3] = d;
  integers[4] = g;
  reals[0] = e;
  reals[1] = f;
}

kernel void count(global int* counts) {
  if (IS_FIRST) atomic_inc(&counts[get_group_id(0)]);
}

kernel void spin(global int* out, int rounds) {
  uint value = 1;
  for (int i = 0; i < rounds; ++i) value = value * 1664525u + 1013904223u;
  if (IS_FIRST) *out = (int)value;
}

kernel void block(global int* out) {
  int x = get_local_id(0), y = get_local_id(1), z = get_local_id(2);
  out[(z * get_local_size(1) + y) * get_local_size(0) + x] = x + 100 * y + 10000 * z;
}
