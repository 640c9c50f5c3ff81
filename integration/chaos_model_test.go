package integration

// storeModel computes what the store of testdata/store.c holds after each number of steps. It is the naive twin of that program:
// whoever knows an app's name and a number knows the checksum that goes with them.
type storeModel struct {
	name  uint64
	cells [storeCells]uint64
	sum   uint64
	sums  []uint64 // by steps
}

const (
	storeCells  = 16384
	storeWrites = 64
)

func newStoreModel(name uint64) *storeModel {
	m := &storeModel{name: name}
	for i := range m.cells {
		m.sum += mix(name, uint64(i), 0)
	}
	m.sums = []uint64{m.sum}
	return m
}

// after is the checksum after n steps.
func (m *storeModel) after(n uint64) uint64 {
	for step := uint64(len(m.sums)); step <= n; step++ {
		for i := range uint64(storeWrites) {
			at := mix(m.name, step, i) % storeCells
			m.sum -= mix(m.name, at, m.cells[at])
			m.cells[at] = mix(m.name, step, at)
			m.sum += mix(m.name, at, m.cells[at])
		}
		m.sums = append(m.sums, m.sum)
	}
	return m.sums[n] + n
}

func mix(a, b, c uint64) uint64 {
	x := a*0x9e3779b97f4a7c15 ^ b*0xbf58476d1ce4e5b9 ^ c*0x94d049bb133111eb
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}
