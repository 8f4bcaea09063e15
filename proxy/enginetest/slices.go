package enginetest

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/sluicenet/sluice/model"
)

// maxSlicePorts is how many ports the API allows in an EndpointSlice.
const maxSlicePorts = 100

// endpoints puts the EndpointSlices of a Service, one a family: "endpoints web
// slice=2 weight=3: b c:terminating d:zone=z2". They replace those of the same
// number.
func (o *objects) endpoints(service string, words, list []string) error {
	number, weight, only := "1", int32(1), "46"
	wrong := false
	ports, err := o.endpointPorts(service)
	if err != nil {
		return err
	}
	for _, word := range words {
		k, v, _ := strings.Cut(word, "=")
		switch k {
		case "slice":
			number = v
		case "weight":
			n, err := strconv.Atoi(v)
			if err != nil {
				return err
			}
			weight = int32(n)
		case "only":
			only = v
		case "wrong-family":
			wrong = true
		case "no-ports":
			ports = nil
		case "ports":
			if ports, err = slicePorts(v); err != nil {
				return err
			}
		default:
			return fmt.Errorf("unknown word %q of endpoints", word)
		}
	}
	for _, family := range []int{4, 6} {
		name := fmt.Sprintf("%s-%s-%d", service, number, family)
		maps.DeleteFunc(o.put, func(k model.Key, _ any) bool {
			return k.Kind == model.KindEndpointSlice && (k.Name == name || strings.HasPrefix(k.Name, name+"-"))
		})
		if !strings.Contains(only, strconv.Itoa(family)) {
			continue
		}
		addressFamily := family
		if wrong {
			addressFamily = 10 - family
		}
		var endpoints []model.Endpoint
		for _, text := range list {
			e, err := o.endpoint(text, addressFamily)
			if err != nil {
				return err
			}
			endpoints = append(endpoints, e)
		}
		i := 0
		for chunk := range slices.Chunk(append(ports, make([]model.EndpointPort, max(0, 1-len(ports)))...), maxSlicePorts) {
			s := &model.EndpointSlice{Meta: model.Meta{Namespace: namespace, Name: name}, Service: service, IPv6: family == 6,
				Weight: weight, Ports: chunk, Endpoints: endpoints}
			if len(ports) == 0 {
				s.Ports = nil
			}
			if i > 0 {
				s.Name += "-" + strconv.Itoa(i)
			}
			i++
			o.put[key(model.KindEndpointSlice, s.Name)] = s
		}
	}
	return nil
}

// endpointPorts returns the ports that the Service's endpoints have.
func (o *objects) endpointPorts(service string) ([]model.EndpointPort, error) {
	s, ok := o.put[key(model.KindService, service)].(*model.Service)
	if !ok {
		return nil, fmt.Errorf("endpoints of Service %s, which is not there", service)
	}
	var out []model.EndpointPort
	for _, p := range s.Ports {
		n, err := number(p.TargetPort)
		if err != nil {
			return nil, err
		}
		out = append(out, model.EndpointPort{Name: p.Name, Protocol: p.Protocol, Port: n})
	}
	return out, nil
}

// slicePorts reads "t:8081/tcp,u:8081/udp".
func slicePorts(text string) ([]model.EndpointPort, error) {
	var out []model.EndpointPort
	for t := range strings.SplitSeq(text, ",") {
		specs, err := parsePorts(t)
		if err != nil {
			return nil, err
		}
		for _, s := range specs {
			out = append(out, model.EndpointPort{Name: s.Name, Protocol: s.Protocol, Port: s.Port})
		}
	}
	return out, nil
}

// endpoint reads "b", "b:terminating", or "b:zone=z1+for-zone=z1+for-node=node1".
func (o *objects) endpoint(text string, family int) (model.Endpoint, error) {
	name, states, _ := strings.Cut(text, ":")
	h := o.w.hosts[name]
	if h == nil {
		return model.Endpoint{}, fmt.Errorf("nobody is called %q", name)
	}
	e := model.Endpoint{Addr: h.addr(family), Node: h.node, Pod: name, Ready: true, Serving: true}
	if h.node == "" || name == "node" || name == "other" {
		e.Pod = ""
	}
	for state := range strings.SplitSeq(states, "+") {
		k, v, _ := strings.Cut(state, "=")
		switch k {
		case "":
		case "terminating":
			e.Ready, e.Terminating = false, true
		case "notready":
			e.Ready, e.Serving = false, false
		case "gone":
			e.Ready, e.Serving, e.Terminating = false, false, true
		case "published": // what publishNotReadyAddresses makes of one that terminates
			e.Ready, e.Terminating = true, true
		case "nowhere":
			e.Node = ""
		case "zone":
			e.Zone = v
		case "for-zone":
			e.Rare = &model.RareEndpoint{ForZones: append(e.ForZones(), v), ForNodes: e.ForNodes()}
		case "for-node":
			e.Rare = &model.RareEndpoint{ForZones: e.ForZones(), ForNodes: append(e.ForNodes(), v)}
		default:
			return e, fmt.Errorf("unknown state %q of an endpoint", state)
		}
	}
	return e, nil
}
