package world

import "math"

// Dice is a small random number generator (splitmix64, Steele, Lea and Flood 2014): a value, so that every job can have its own without
// allocation.
type Dice struct{ state uint64 }

// NewDice starts a generator from any two numbers; equal numbers give equal throws.
func NewDice(a, b uint64) Dice { return Dice{state: mix(a ^ mix(b+0x9e3779b97f4a7c15))} }

// mix is splitmix64's finaliser: every bit of the input changes every bit of the output with probability one half.
func mix(z uint64) uint64 {
	z ^= z >> 30
	z *= 0xbf58476d1ce4e5b9
	z ^= z >> 27
	z *= 0x94d049bb133111eb
	return z ^ z>>31
}

// Uint64 is the next number.
func (d *Dice) Uint64() uint64 {
	d.state += 0x9e3779b97f4a7c15
	return mix(d.state)
}

// Float64 is uniform in [0, 1).
func (d *Dice) Float64() float64 { return float64(d.Uint64()>>11) / (1 << 53) }

// IntN is uniform in [0, n); n below 1 gives 0.
func (d *Dice) IntN(n int) int {
	if n < 1 {
		return 0
	}
	return int(d.Float64() * float64(n))
}

// Chance is true with probability p.
func (d *Dice) Chance(p float64) bool { return d.Float64() < p }

// Exp is exponential with mean 1.
func (d *Dice) Exp() float64 { return -math.Log(1 - d.Float64()) }

// Norm is normal with mean 0 and deviation 1 (Box and Muller; the second value is thrown away).
func (d *Dice) Norm() float64 {
	return math.Sqrt(-2*math.Log(1-d.Float64())) * math.Cos(2*math.Pi*d.Float64())
}

// LogNorm is log-normal with mean 1 and the given deviation of its logarithm.
func (d *Dice) LogNorm(sigma float64) float64 { return math.Exp(sigma*d.Norm() - sigma*sigma/2) }

// Times is how often something happens that happens n times on average: n's whole part, and one more with the chance of the rest.
func (d *Dice) Times(n float64) int {
	whole := math.Floor(n)
	if d.Chance(n - whole) {
		whole++
	}
	return int(whole)
}

// Geometric is a count with the given mean, heavily skewed to small ones.
func (d *Dice) Geometric(mean float64) int {
	if mean <= 0 {
		return 0
	}
	return int(d.Exp() / math.Log1p(1/mean))
}
