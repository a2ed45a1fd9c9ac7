package identity

// A list is an intrusive list, oldest first: its members hold the links, so
// that to move one, or to know which list it is in, costs nothing to speak of.
type list[T any] struct {
	head, tail *links[T]
	n          int
}

// links are what a member of a list embeds.
type links[T any] struct {
	of         *T       // the member itself; nil while it is in no list
	list       *list[T] // that it is in
	prev, next *links[T]
}

// first returns the oldest member, nil if there is none.
func (l *list[T]) first() *T {
	if l.head == nil {
		return nil
	}
	return l.head.of
}

// all yields the members, oldest first. The one that was yielded may leave the
// list meanwhile, others may not.
func (l *list[T]) all(yield func(*T) bool) {
	for m := l.head; m != nil; {
		next := m.next
		if !yield(m.of) {
			return
		}
		m = next
	}
}

// push makes of, which holds m and is in no list, the newest.
func (l *list[T]) push(of *T, m *links[T]) {
	m.of, m.list, m.prev, m.next = of, l, l.tail, nil
	if l.tail != nil {
		l.tail.next = m
	} else {
		l.head = m
	}
	l.tail = m
	l.n++
}

// drop takes a member out.
func (l *list[T]) drop(m *links[T]) {
	if m.prev != nil {
		m.prev.next = m.next
	} else {
		l.head = m.next
	}
	if m.next != nil {
		m.next.prev = m.prev
	} else {
		l.tail = m.prev
	}
	*m = links[T]{}
	l.n--
}

// move makes a member the newest of l, which may be the list it is in.
func (l *list[T]) move(m *links[T]) {
	of := m.of
	m.list.drop(m)
	l.push(of, m)
}
