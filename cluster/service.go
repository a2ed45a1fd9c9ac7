package cluster

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// maxFrontends is how many pairs of an address and a port a service has.
const maxFrontends = 4096

// service is what a State knows of a service.
type service struct {
	told  *Service
	ended int64 // when its end was told, 0 while it goes on
}

// serviceName is a name of services: slices know their service by it.
type serviceName struct {
	service *service // the one that is; nil where only slices have named it
	slices  []*slice
}

// slice is an endpoint slice: a part of a service's endpoints.
type slice struct {
	of      name
	pods    []*pod
	waiting []Endpoint // whose pod is not known
}

// SetService tells a service as it is at a time. It takes v: nobody may change
// it afterwards.
func (s *State) SetService(v *Service, at time.Time) {
	if v == nil || v.UID == "" {
		return
	}
	s.write.Lock()
	defer s.write.Unlock()
	share := &s.share
	v.UID = share.own(v.UID, maxID)
	v.Name = share.text(v.Name, maxName)
	v.Namespace = share.text(v.Namespace, maxName)
	v.Labels = share.labels(v.Labels)
	v.Addrs = share.addrs(v.Addrs)
	v.Ports = atMost(share, v.Ports, min(maxPorts, maxFrontends/max(1, len(v.Addrs))))
	for i := range v.Ports {
		v.Ports[i].Name = share.text(v.Ports[i].Name, maxName)
		v.Ports[i].Protocol = share.text(v.Ports[i].Protocol, maxName)
	}
	now := nanos(at)
	s.change(at, func() { s.setService(v, now) })
}

func (s *State) setService(told *Service, now int64) {
	v := s.services[told.UID]
	fresh := v == nil
	old := &Service{}
	if fresh || v.ended != 0 || !slices.Equal(v.told.Addrs, told.Addrs) {
		s.versions.Services++
	}
	from := now
	if fresh {
		v = &service{told: told}
		from = begin(told.Created, time.Time{}, now)
		s.services[told.UID] = v
	} else {
		told.Namespace, told.Name = v.told.Namespace, v.told.Name // what an API cannot change
		s.leave(v, told, now)
		if v.ended == 0 {
			old = v.told
		}
		v.told, v.ended = told, 0
	}
	held := claim[service]{owner: v, from: from, told: now, fresh: fresh}
	had := old.frontends()
	for key := range told.frontends() {
		if !had[key] {
			s.frontends[key] = s.frontends[key].hold(held)
		}
	}
	for _, addr := range told.Addrs {
		if !slices.Contains(old.Addrs, addr) {
			place := s.places[addr]
			place.services = place.services.hold(held)
			s.put(addr, place)
		}
	}
	ports := old.nodePorts()
	for key := range told.nodePorts() {
		if !ports[key] {
			s.nodePorts[key] = s.nodePorts[key].hold(held)
		}
	}
	n := s.serviceName(name{told.Namespace, told.Name})
	n.service = v
	s.reassign(n)
}

// frontends are where a service is asked for at its own addresses.
func (v *Service) frontends() map[frontend]bool {
	all := make(map[frontend]bool, len(v.Addrs)*len(v.Ports))
	for _, addr := range v.Addrs {
		for _, port := range v.Ports {
			all[frontend{addr, portOf(port.Port, port.Protocol)}] = true
		}
	}
	return all
}

// nodePorts are where a service is asked for at the addresses of nodes.
func (v *Service) nodePorts() map[nodePort]bool {
	all := make(map[nodePort]bool)
	for _, port := range v.Ports {
		if port.NodePort != 0 {
			all[portOf(port.NodePort, port.Protocol)] = true
		}
	}
	return all
}

// leave frees what a service had and, by what is told now, has no more.
func (s *State) leave(v *service, told *Service, now int64) {
	has := told.frontends()
	for key := range v.told.frontends() {
		if !has[key] {
			s.frontends[key].release(v, now)
			s.past.push(now, forgetting(func() uint64 { without(s.frontends, key, v, true); return 0 }))
		}
	}
	for _, addr := range v.told.Addrs {
		if !slices.Contains(told.Addrs, addr) {
			s.places[addr].services.release(v, now)
			s.past.push(now, forgetting(func() uint64 { return s.forgetServiceAt(addr, v, true) }))
		}
	}
	ports := told.nodePorts()
	for key := range v.told.nodePorts() {
		if !ports[key] {
			s.nodePorts[key].release(v, now)
			s.past.push(now, forgetting(func() uint64 { without(s.nodePorts, key, v, true); return 0 }))
		}
	}
}

// forgetServiceAt forgets what a service had of an address.
func (s *State) forgetServiceAt(addr netip.Addr, v *service, endedOnly bool) (n uint64) {
	place := s.places[addr]
	place.services, n = place.services.without(v, endedOnly)
	s.put(addr, place)
	return n
}

// DeleteService tells that a service is gone since at.
func (s *State) DeleteService(uid string, at time.Time) {
	s.write.Lock()
	defer s.write.Unlock()
	v := s.services[uid]
	if v == nil || v.ended != 0 {
		return
	}
	now := nanos(at)
	s.change(at, func() {
		v.ended = now
		s.versions.Services++
		for _, addr := range v.told.Addrs {
			s.places[addr].services.release(v, now)
		}
		for key := range v.told.frontends() {
			s.frontends[key].release(v, now)
		}
		for key := range v.told.nodePorts() {
			s.nodePorts[key].release(v, now)
		}
		if n := s.serviceNames[name{v.told.Namespace, v.told.Name}]; n != nil && n.service == v {
			n.service = nil
			s.reassign(n)
			s.dropName(name{v.told.Namespace, v.told.Name})
		}
		s.past.push(now, v)
	})
}

// forget takes a service out of all tables.
func (v *service) forget(s *State, at int64) (addresses uint64) {
	if v.ended != at || s.services[v.told.UID] != v {
		return 0
	}
	delete(s.services, v.told.UID)
	for _, addr := range v.told.Addrs {
		addresses += s.forgetServiceAt(addr, v, false)
	}
	for key := range v.told.frontends() {
		without(s.frontends, key, v, false)
	}
	for key := range v.told.nodePorts() {
		without(s.nodePorts, key, v, false)
	}
	return addresses
}

func (s *State) serviceName(key name) *serviceName {
	n := s.serviceNames[key]
	if n == nil {
		n = &serviceName{}
		s.serviceNames[key] = n
	}
	return n
}

// dropName takes out a name that is nobody's any more.
func (s *State) dropName(key name) {
	if n := s.serviceNames[key]; n != nil && n.service == nil && len(n.slices) == 0 {
		delete(s.serviceNames, key)
	}
}

// reassign tells the pods of a name what their services are now.
func (s *State) reassign(n *serviceName) {
	for _, sl := range n.slices {
		for _, p := range sl.pods {
			s.assign(p)
		}
	}
}

// assign works out the services of a pod: a new list, readers have the old one.
func (s *State) assign(p *pod) {
	var services []*Service
	for _, sl := range p.slices {
		n := s.serviceNames[sl.of]
		if n != nil && n.service != nil && !slices.Contains(services, n.service.told) {
			services = append(services, n.service.told)
		}
	}
	slices.SortFunc(services, func(a, b *Service) int { return cmp.Compare(a.Name, b.Name) })
	p.services = slices.Clip(services)
}

// SetEndpoints tells the endpoints that one slice has of a service, ready or
// not: what goes to them comes by the service.
func (s *State) SetEndpoints(namespace, sliceName, serviceOf string, endpoints []Endpoint, at time.Time) {
	s.write.Lock()
	defer s.write.Unlock()
	namespace = s.share.text(namespace, maxName)
	key := name{namespace, s.share.text(sliceName, maxName)}
	of := name{namespace, s.share.text(serviceOf, maxName)}
	next := &slice{of: of}
	seen := make(map[*pod]bool, len(endpoints))
	for _, e := range atMost(&s.share, endpoints, maxEndpoints) {
		e = Endpoint{Addr: canonical(e.Addr), PodUID: s.share.own(e.PodUID, maxID)}
		if e.PodUID != "" {
			e.Addr = netip.Addr{} // the uid says it all
		} else if !e.Addr.IsValid() {
			continue
		}
		if p := s.endpoint(e); p == nil {
			next.waiting = append(next.waiting, e)
		} else if !seen[p] {
			seen[p] = true
			next.pods = append(next.pods, p)
		}
	}
	old := s.slices[key]
	if old != nil && old.of == of && slices.Equal(old.pods, next.pods) && slices.Equal(old.waiting, next.waiting) {
		return // only what nobody asks for has changed
	}
	s.change(at, func() {
		if old != nil {
			s.removeSlice(old, seen)
		}
		s.slices[key] = next
		n := s.serviceName(of)
		n.slices = append(n.slices, next)
		for _, p := range next.pods {
			p.slices = append(p.slices, next)
			s.assign(p)
		}
		for _, e := range next.waiting {
			s.waiting[e] = append(s.waiting[e], next)
		}
	})
}

// endpoint is the pod of an endpoint, or nil while nobody has told it.
func (s *State) endpoint(e Endpoint) *pod {
	if e.PodUID != "" {
		return s.pods[e.PodUID]
	}
	return s.places[e.Addr].pods.at(0)
}

// removeSlice takes a slice out. The pods in stay have another one in its place
// and are assigned by that. Ended pods keep the services that they had.
func (s *State) removeSlice(sl *slice, stay map[*pod]bool) {
	if n := s.serviceNames[sl.of]; n != nil {
		n.slices = remove(n.slices, sl)
		s.dropName(sl.of)
	}
	for _, p := range sl.pods {
		p.slices = remove(p.slices, sl)
		if !stay[p] && p.ended == 0 {
			s.assign(p)
		}
	}
	for _, e := range sl.waiting {
		if left := remove(s.waiting[e], sl); len(left) > 0 {
			s.waiting[e] = left
		} else {
			delete(s.waiting, e)
		}
	}
}

// remove takes one out of a list in which the order does not matter.
func remove[T comparable](list []T, one T) []T {
	i := slices.Index(list, one)
	if i < 0 {
		return list
	}
	last := len(list) - 1
	list[i] = list[last]
	var none T
	list[last] = none
	return list[:last]
}

// joinWaiting gives a pod to the slices that were told before it.
func (s *State) joinWaiting(p *pod) {
	keys := []Endpoint{{PodUID: p.told.UID}}
	if !p.told.HostNetwork && p.told.Ended.IsZero() {
		for _, addr := range p.told.Addrs {
			keys = append(keys, Endpoint{Addr: addr})
		}
	}
	for _, key := range keys {
		for _, sl := range s.waiting[key] {
			sl.waiting = remove(sl.waiting, key)
			if !slices.Contains(sl.pods, p) {
				sl.pods = append(sl.pods, p)
				p.slices = append(p.slices, sl)
			}
			s.assign(p)
		}
		delete(s.waiting, key)
	}
}

// DeleteEndpoints tells that a slice is gone.
func (s *State) DeleteEndpoints(namespace, sliceName string, at time.Time) {
	s.write.Lock()
	defer s.write.Unlock()
	key := name{s.share.text(namespace, maxName), s.share.text(sliceName, maxName)}
	sl := s.slices[key]
	if sl == nil {
		return
	}
	s.change(at, func() {
		delete(s.slices, key)
		s.removeSlice(sl, nil)
	})
}

// ServicesOf returns the services whose endpoints hold the pod, by name; those
// of an ended pod are the last that it had. Nobody may change the slice.
func (s *State) ServicesOf(p *Pod) []*Service {
	if p == nil {
		return nil
	}
	s.table.RLock()
	defer s.table.RUnlock()
	if known := s.pods[p.UID]; known != nil {
		return known.services
	}
	return nil
}
