package proxy

import (
	"math/bits"
	"slices"
	"strconv"

	"github.com/sluicenet/sluice/model"
)

// splitName is the name of the Split of a Service's port.
func splitName(service string, port uint16) string {
	return service + ":" + strconv.Itoa(int(port))
}

// splitNeeds is what the plan of a Service with splits was made of.
type splitNeeds struct {
	services []model.Name
	pods     []model.Name
}

func (p *Planner) forgetNeeds(name model.Name) {
	needs, ok := p.needs[name]
	if !ok {
		return
	}
	for _, s := range needs.services {
		unlink(p.splitTo, s, name)
	}
	for _, pod := range needs.pods {
		unlink(p.subsetsOf, pod, name)
	}
	delete(p.needs, name)
}

func link(m map[model.Name]map[model.Name]struct{}, from, to model.Name) {
	if m[from] == nil {
		m[from] = map[model.Name]struct{}{}
	}
	m[from][to] = struct{}{}
}

func unlink(m map[model.Name]map[model.Name]struct{}, from, to model.Name) {
	delete(m[from], to)
	if len(m[from]) == 0 {
		delete(m, from)
	}
}

// splitEndpoints returns the endpoints of all backends of a split. A backend
// that has none leaves its share to the others.
func (p *Planner) splitEndpoints(snap *model.Snapshot, svc *model.Service, split *model.Split, family Family, proto Protocol, s *Service) []endpoint {
	name := model.Name{Namespace: svc.Namespace, Name: svc.Name}
	needs := p.needs[name]
	all := p.scratch[:0]
	for i, b := range split.Backends {
		needs.services = append(needs.services, b.Service)
		link(p.splitTo, b.Service, name)
		backend, ok := model.Services.Get(snap, b.Service.Namespace, b.Service.Name)
		if !ok {
			s.splitProblem(split, "Service "+b.Service.String()+" does not exist")
			continue
		}
		j := slices.IndexFunc(backend.Ports, func(bp model.ServicePort) bool {
			return bp.Port == b.Port && sameProtocol(bp.Protocol, split.Protocol)
		})
		if j < 0 {
			s.splitProblem(split, "Service "+b.Service.String()+" has no "+FrontendKey{Protocol: proto, Port: b.Port}.portText()+" port")
			continue
		}
		from := len(all)
		all = p.endpoints(all, snap, backend, backend.Ports[j].Name, family, proto)
		kept := all[:from]
		for _, e := range all[from:] {
			if len(b.Selector) > 0 {
				if e.Pod == "" {
					continue
				}
				pod := model.Name{Namespace: b.Service.Namespace, Name: e.Pod}
				needs.pods = append(needs.pods, pod)
				link(p.subsetsOf, pod, name)
				if got, ok := model.Pods.Get(snap, pod.Namespace, pod.Name); !ok || !matches(got, b.Selector) {
					continue
				}
			}
			e.share, e.parts = i, uint64(b.Weight)
			kept = append(kept, e)
		}
		all = kept
	}
	p.needs[name] = needs
	p.scratch = all
	return all
}

func (s *Service) splitProblem(split *model.Split, message string) {
	if message = "split by " + split.Origin.String() + ": " + message; !containsText(s.Problems, message) {
		s.problem("SplitBackendNotFound", message)
	}
}

// reduce returns the weights of endpoints of which each has its part of its
// share's weight, as the smallest integers of the same proportions. Where these
// would be huge, the proportions are kept to within a part in 65,536.
func reduce(used []*endpoint) []uint32 {
	out := make([]uint32, len(used))
	if !slices.ContainsFunc(used, func(e *endpoint) bool { return e.weight != used[0].weight || e.share != used[0].share }) {
		for i := range out {
			out[i] = 1
		}
		return out
	}
	sums := map[int]uint64{}
	for _, e := range used {
		sums[e.share] += e.weight
	}
	common := uint64(1)
	for _, sum := range sums {
		common = lcm(common, sum)
	}
	exact := common != 0
	weights := make([]uint64, len(used))
	var divisor uint64
	for i, e := range used {
		hi, w := bits.Mul64(e.weight*e.parts, common/max(sums[e.share], 1))
		exact = exact && hi == 0 && e.weight <= 1<<31
		weights[i] = w
		divisor = gcd(divisor, w)
	}
	for i, w := range weights {
		if w /= max(divisor, 1); w > 1<<24 {
			exact = false
		}
		out[i] = uint32(w)
	}
	if exact {
		return out
	}
	var largest float64
	real := make([]float64, len(used))
	for i, e := range used {
		real[i] = float64(e.weight) / float64(sums[e.share]) * float64(e.parts)
		largest = max(largest, real[i])
	}
	for i := range used {
		out[i] = max(1, uint32(real[i]/largest*(1<<16)+0.5))
	}
	return out
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// lcm returns the least common multiple, or 0 where it is too large to be used.
func lcm(a, b uint64) uint64 {
	if a == 0 || b == 0 {
		return 0
	}
	hi, lo := bits.Mul64(a/gcd(a, b), b)
	if hi != 0 || lo > 1<<31 {
		return 0
	}
	return lo
}

// maxSlots bounds how many slots a set of weighted backends fills, if it has
// not more backends than that.
const maxSlots = 256

// Slots returns how many of a table's slots each backend fills, for engines
// that choose a backend by a random number. Without limits that is its weight;
// otherwise it is as near to it as maxSlots slots allow, and at least one.
func Slots(backends []Backend) []int {
	out := make([]int, len(backends))
	total := uint64(0)
	for i, b := range backends {
		out[i] = int(b.Weight)
		total += uint64(b.Weight)
	}
	limit := uint64(max(maxSlots, len(backends)))
	if total <= limit {
		return out
	}
	// The largest remainders get what rounding down left over.
	type rest struct {
		index int
		part  uint64
	}
	rests := make([]rest, 0, len(backends))
	left := int(limit)
	for i, b := range backends {
		exact := uint64(b.Weight) * limit
		out[i] = max(1, int(exact/total))
		left -= out[i]
		rests = append(rests, rest{i, exact % total})
	}
	slices.SortStableFunc(rests, func(a, b rest) int {
		switch {
		case a.part > b.part:
			return -1
		case a.part < b.part:
			return 1
		}
		return 0
	})
	for i := 0; left > 0; i, left = i+1, left-1 {
		out[rests[i%len(rests)].index]++
	}
	for left < 0 { // because tiny weights got a whole slot
		largest := 0
		for i := range out {
			if out[i] > out[largest] {
				largest = i
			}
		}
		out[largest]--
		left++
	}
	return out
}
