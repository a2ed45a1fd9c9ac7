package l7

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strconv"
)

// MaxDNSAnswers is how many records of an answer ParseDNS keeps.
const MaxDNSAnswers = 128

// Limits of ParseDNS. Compression lets a message of 64 KiB stand for many
// megabytes of text; what exceeds a limit is left out and Cut is set.
const (
	maxDNSQuestions = 8    // more are malformed; servers answer one (RFC 9619)
	maxDNSValue     = 1024 // bytes of text of one record's value
	maxDNSName      = 255  // octets of a name on the wire (RFC 1035, 2.3.4)
	maxDNSHints     = 16   // addresses kept of one SVCB or HTTPS record
	maxDNSAliases   = 16   // aliases followed from the question to an address
)

const dnsHeaderLen = 12

// The errors of ParseDNS.
var (
	// ErrDNSShort is returned for a message that ends before its header says.
	ErrDNSShort = errors.New("dns message is cut short")
	// ErrDNSMalformed is returned for bytes that are no DNS message.
	ErrDNSMalformed = errors.New("malformed dns message")
)

// A DNSType is the type of a DNS record.
type DNSType uint16

// The types that are told apart.
const (
	DNSTypeA     DNSType = 1
	DNSTypeNS    DNSType = 2
	DNSTypeCNAME DNSType = 5
	DNSTypePTR   DNSType = 12
	DNSTypeMX    DNSType = 15
	DNSTypeTXT   DNSType = 16
	DNSTypeAAAA  DNSType = 28
	DNSTypeSRV   DNSType = 33
	DNSTypeDNAME DNSType = 39
	DNSTypeSVCB  DNSType = 64
	DNSTypeHTTPS DNSType = 65
)

const dnsClassIN = 1

// A DNSRCode is the answer's code, without the bits that EDNS adds.
type DNSRCode uint8

// DNS is what is of interest in one DNS message.
type DNS struct {
	ID       uint16
	Response bool
	Opcode   uint8
	// Truncated is the TC bit: the server left something out.
	Truncated bool
	RCode     DNSRCode
	// Name is the name of the first question, lower case, in the presentation
	// of RFC 1035 without the last dot; the root is ".". It is empty when the
	// message asks nothing.
	Name  string
	QType DNSType
	// Answers are the records of the answer section, at most MaxDNSAnswers.
	Answers []DNSRecord
	// Cut is true when records were left out because of a limit.
	Cut bool
}

// A DNSRecord is one record of an answer.
type DNSRecord struct {
	Name  string // owner, as DNS.Name
	Type  DNSType
	Class uint16
	TTL   uint32 // seconds
	// Addr is the address of an A or AAAA record.
	Addr netip.Addr
	// Target is the name that a CNAME, DNAME, NS, PTR, MX, SRV, SVCB or HTTPS
	// record points to, as DNS.Name.
	Target string
	// Hints are the addresses within an SVCB or HTTPS record.
	Hints []netip.Addr
	// Value is the text of a record without Addr: "10 mail.example.org". Data that
	// is not as its type wants it is written like that of an unknown type.
	Value string
}

// ParseDNS parses one DNS message, without the length that precedes it over TCP.
//
// With ErrDNSShort it returns what stood before the end, if that is at least a
// whole header and question; with ErrDNSMalformed the result is meaningless.
func ParseDNS(b []byte) (DNS, error) {
	if len(b) < dnsHeaderLen {
		return DNS{}, ErrDNSShort
	}
	// The reserved bit Z must be zero (RFC 1035, 4.1.1), but servers answer
	// questions that set it: whoever wants to be overlooked must not gain by it.
	flags := binary.BigEndian.Uint16(b[2:])
	d := DNS{
		ID:        binary.BigEndian.Uint16(b),
		Response:  flags&0x8000 != 0,
		Opcode:    uint8(flags >> 11 & 0xf),
		Truncated: flags&0x0200 != 0,
		RCode:     DNSRCode(flags & 0xf),
	}
	questions := int(binary.BigEndian.Uint16(b[4:]))
	answers := int(binary.BigEndian.Uint16(b[6:]))

	if questions > maxDNSQuestions {
		return DNS{}, ErrDNSMalformed
	}
	p := dnsParser{msg: b, off: dnsHeaderLen}
	for i := range questions {
		name, err := p.name(d.Name)
		if err != nil {
			return DNS{}, err
		}
		fixed, err := p.take(4)
		if err != nil {
			return DNS{}, err
		}
		if i == 0 {
			d.Name = name
			d.QType = DNSType(binary.BigEndian.Uint16(fixed))
		}
	}
	if !d.Response {
		return d, nil // a question's other sections hold nothing to report
	}
	if n := min(answers, MaxDNSAnswers, (len(b)-p.off)/11); n > 0 {
		d.Answers = make([]DNSRecord, 0, n)
	}
	last := d.Name
	for range answers {
		if len(d.Answers) == MaxDNSAnswers {
			d.Cut = true
			break
		}
		r, err := p.record(last)
		if err != nil {
			return d, err
		}
		last = r.Name
		d.Answers = append(d.Answers, r)
	}
	d.Cut = d.Cut || p.cut
	return d, nil
}

// Addrs yields each address that the answer gives to the name asked for, with
// the seconds it may be remembered: the records of the name and, when it is an
// alias, of what it stands for. Records of other names are not the answer to
// the question and are left out.
func (d *DNS) Addrs(yield func(addr netip.Addr, ttl uint32) bool) {
	if !d.Response || d.Name == "" {
		return
	}
	name, aliasTTL := d.Name, ^uint32(0)
	for range maxDNSAliases {
		next := ""
		for i := range d.Answers {
			r := &d.Answers[i]
			if r.Class != dnsClassIN || r.Name != name {
				continue
			}
			ttl := min(r.TTL, aliasTTL)
			if r.Addr.IsValid() && !yield(r.Addr, ttl) {
				return
			}
			for _, a := range r.Hints {
				if !yield(a, ttl) {
					return
				}
			}
			if r.Type == DNSTypeCNAME && next == "" {
				next, aliasTTL = r.Target, ttl
			}
		}
		if next == "" || next == d.Name {
			return
		}
		name = next
	}
}

// AppendText appends the record as text: name TTL type value.
func (r *DNSRecord) AppendText(b []byte) []byte {
	b = append(b, r.Name...)
	b = append(b, ' ')
	b = strconv.AppendUint(b, uint64(r.TTL), 10)
	b = append(b, ' ')
	b = append(b, r.Type.String()...)
	b = append(b, ' ')
	if r.Addr.IsValid() {
		return r.Addr.AppendTo(b)
	}
	return append(b, r.Value...)
}

// A dnsParser walks a message. Its errors are those of ParseDNS.
type dnsParser struct {
	msg []byte
	off int
	cut bool // a value did not fit
}

func (p *dnsParser) take(n int) ([]byte, error) {
	if len(p.msg)-p.off < n {
		return nil, ErrDNSShort
	}
	b := p.msg[p.off : p.off+n]
	p.off += n
	return b, nil
}

// name reads a name. It returns same itself if the name reads the same, which
// is the rule in answers and saves the copy.
func (p *dnsParser) name(same string) (string, error) {
	var buf [4 * maxDNSName]byte // an octet takes at most four bytes of text
	text, end, err := appendDNSName(buf[:0], p.msg, p.off)
	if err != nil {
		return "", err
	}
	p.off = end
	if string(text) == same {
		return same, nil
	}
	return string(text), nil
}

func (p *dnsParser) record(last string) (DNSRecord, error) {
	name, err := p.name(last)
	if err != nil {
		return DNSRecord{}, err
	}
	fixed, err := p.take(10)
	if err != nil {
		return DNSRecord{}, err
	}
	r := DNSRecord{
		Name:  name,
		Type:  DNSType(binary.BigEndian.Uint16(fixed)),
		Class: binary.BigEndian.Uint16(fixed[2:]),
		TTL:   binary.BigEndian.Uint32(fixed[4:]),
	}
	if r.TTL > 1<<31-1 {
		r.TTL = 0 // RFC 2181, 8
	}
	start := p.off
	data, err := p.take(int(binary.BigEndian.Uint16(fixed[8:])))
	if err != nil {
		return DNSRecord{}, err
	}
	// Names within data may point back into the message, but must end in data.
	in := dnsParser{msg: p.msg[:p.off], off: start}
	if err := in.value(&r, data); err != nil {
		// Its length is known all the same, and resolvers pass it over: one bad
		// record must not hide the others.
		r.Addr, r.Target, r.Hints = netip.Addr{}, "", nil
		in.cut = false
		r.Value = string(in.octets(nil, data))
	}
	p.cut = p.cut || in.cut
	return r, nil
}

// octets appends data as that of a record of no known type (RFC 3597, 5).
func (p *dnsParser) octets(text, data []byte) []byte {
	text = append(text, `\# `...)
	text = strconv.AppendInt(text, int64(len(data)), 10)
	if len(data) > 0 {
		text = append(text, ' ')
	}
	for _, c := range data {
		if len(text)+2 > maxDNSValue {
			p.cut = true
			break
		}
		text = append(text, hexDigits[c>>4], hexDigits[c&15])
	}
	return text
}

// value reads the data of a record, which is all that is left.
func (p *dnsParser) value(r *DNSRecord, data []byte) error {
	var buf [maxDNSValue]byte
	text := buf[:0]
	var err error
	switch r.Type {
	case DNSTypeA:
		if len(data) != 4 {
			return ErrDNSMalformed
		}
		r.Addr = netip.AddrFrom4([4]byte(data))
		return nil
	case DNSTypeAAAA:
		if len(data) != 16 {
			return ErrDNSMalformed
		}
		r.Addr = netip.AddrFrom16([16]byte(data))
		return nil
	case DNSTypeCNAME, DNSTypeDNAME, DNSTypeNS, DNSTypePTR:
		if r.Target, err = p.name(r.Name); err != nil {
			return err
		}
		r.Value = r.Target
		return p.done()
	case DNSTypeMX:
		if text, err = p.numbers(text, 1); err != nil {
			return err
		}
		if r.Target, err = p.name(r.Name); err != nil {
			return err
		}
		text = append(text, r.Target...)
		if err := p.done(); err != nil {
			return err
		}
	case DNSTypeSRV:
		if text, err = p.numbers(text, 3); err != nil {
			return err
		}
		if r.Target, err = p.name(r.Name); err != nil {
			return err
		}
		text = append(text, r.Target...)
		if err := p.done(); err != nil {
			return err
		}
	case DNSTypeTXT:
		if text, err = p.strings(text); err != nil {
			return err
		}
	case DNSTypeSVCB, DNSTypeHTTPS:
		if text, err = p.numbers(text, 1); err != nil {
			return err
		}
		if r.Target, err = p.name(r.Name); err != nil {
			return err
		}
		text = append(text, r.Target...)
		if text, err = p.params(text, r); err != nil {
			return err
		}
	default:
		text = p.octets(text, data)
	}
	r.Value = string(text)
	return nil
}

// done checks that nothing is left of the record's data.
func (p *dnsParser) done() error {
	if p.off != len(p.msg) {
		return ErrDNSMalformed
	}
	return nil
}

// numbers appends n 16-bit numbers, each followed by a blank.
func (p *dnsParser) numbers(text []byte, n int) ([]byte, error) {
	for range n {
		b, err := p.take(2)
		if err != nil {
			return nil, err
		}
		text = strconv.AppendUint(text, uint64(binary.BigEndian.Uint16(b)), 10)
		text = append(text, ' ')
	}
	return text, nil
}

// strings appends the character strings of a TXT record, quoted.
func (p *dnsParser) strings(text []byte) ([]byte, error) {
	for p.off < len(p.msg) {
		n := int(p.msg[p.off])
		p.off++
		s, err := p.take(n)
		if err != nil {
			return nil, err
		}
		if len(text) > 0 {
			text = appendBounded(text, ' ', &p.cut)
		}
		text = appendBounded(text, '"', &p.cut)
		for _, c := range s {
			if len(text)+5 > maxDNSValue { // an escape and the closing quote
				p.cut = true
				break
			}
			text = appendDNSByte(text, c, txtSpecial)
		}
		text = appendBounded(text, '"', &p.cut)
	}
	return text, nil
}

func appendBounded(text []byte, c byte, cut *bool) []byte {
	if len(text) == maxDNSValue {
		*cut = true
		return text
	}
	return append(text, c)
}

// The parameters of SVCB records that carry addresses (RFC 9460, 7.3).
const (
	svcParamIPv4Hint = 4
	svcParamIPv6Hint = 6
)

// params reads the parameters of an SVCB record: their addresses.
func (p *dnsParser) params(text []byte, r *DNSRecord) ([]byte, error) {
	for p.off < len(p.msg) {
		head, err := p.take(4)
		if err != nil {
			return nil, err
		}
		key := binary.BigEndian.Uint16(head)
		val, err := p.take(int(binary.BigEndian.Uint16(head[2:])))
		if err != nil {
			return nil, err
		}
		var size int
		var label string
		switch key {
		case svcParamIPv4Hint:
			size, label = 4, " ipv4hint="
		case svcParamIPv6Hint:
			size, label = 16, " ipv6hint="
		default:
			continue
		}
		if len(val) == 0 || len(val)%size != 0 {
			return nil, ErrDNSMalformed
		}
		for i := 0; i < len(val); i += size {
			a, _ := netip.AddrFromSlice(val[i : i+size]) // the size is right
			if len(r.Hints) == maxDNSHints {
				p.cut = true
				break
			}
			r.Hints = append(r.Hints, a)
			if len(text)+len(label)+40 > maxDNSValue {
				p.cut = true
				continue
			}
			if i == 0 {
				text = append(text, label...)
			} else {
				text = append(text, ',')
			}
			text = a.AppendTo(text)
		}
	}
	return text, nil
}

// appendDNSName appends the name at off and returns where it ends in msg.
//
// A pointer must lead to before the labels that it continues, so that a name
// cannot run in circles.
func appendDNSName(text, msg []byte, off int) (_ []byte, end int, _ error) {
	start := len(text)
	size := 1       // octets without compression: the root's
	before := off   // the next pointer must lead to before here
	jumped := false // end is known
	for {
		if off >= len(msg) {
			return nil, 0, ErrDNSShort
		}
		c := msg[off]
		off++
		switch c & 0xc0 {
		case 0x00:
			if c == 0 {
				if !jumped {
					end = off
				}
				if len(text) == start {
					text = append(text, '.')
				}
				return text, end, nil
			}
			if len(msg)-off < int(c) {
				return nil, 0, ErrDNSShort
			}
			if size += int(c) + 1; size > maxDNSName {
				return nil, 0, ErrDNSMalformed
			}
			if len(text) > start {
				text = append(text, '.')
			}
			for _, b := range msg[off : off+int(c)] {
				if 'A' <= b && b <= 'Z' {
					b += 'a' - 'A'
				}
				text = appendDNSByte(text, b, nameSpecial)
			}
			off += int(c)
		case 0xc0:
			if off >= len(msg) {
				return nil, 0, ErrDNSShort
			}
			to := int(c&0x3f)<<8 | int(msg[off])
			off++
			if !jumped {
				end, jumped = off, true
			}
			if to >= before || to < dnsHeaderLen {
				return nil, 0, ErrDNSMalformed
			}
			off, before = to, to
		default: // reserved
			return nil, 0, ErrDNSMalformed
		}
	}
}

// The printable characters that have a meaning in the presentation of names
// and of quoted strings (RFC 1035, 5.1).
const (
	nameSpecial = `."\;()@$`
	txtSpecial  = `"\`
)

const hexDigits = "0123456789abcdef"

// appendDNSByte appends one octet of a label or string, escaped if need be.
func appendDNSByte(text []byte, c byte, special string) []byte {
	if c < ' ' || c > '~' || c == ' ' && special == nameSpecial {
		return append(text, '\\', '0'+c/100, '0'+c/10%10, '0'+c%10)
	}
	for i := range len(special) {
		if special[i] == c {
			return append(text, '\\', c)
		}
	}
	return append(text, c)
}

// dnsTypes are the names of the types that are met in practice, by the IANA.
var dnsTypes = map[DNSType]string{
	1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 10: "NULL", 11: "WKS", 12: "PTR", 13: "HINFO", 15: "MX", 16: "TXT", 17: "RP",
	18: "AFSDB", 24: "SIG", 25: "KEY", 28: "AAAA", 29: "LOC", 33: "SRV", 35: "NAPTR", 36: "KX", 37: "CERT",
	39: "DNAME", 41: "OPT", 42: "APL", 43: "DS", 44: "SSHFP", 45: "IPSECKEY", 46: "RRSIG", 47: "NSEC",
	48: "DNSKEY", 49: "DHCID", 50: "NSEC3", 51: "NSEC3PARAM", 52: "TLSA", 53: "SMIMEA", 55: "HIP", 59: "CDS",
	60: "CDNSKEY", 61: "OPENPGPKEY", 62: "CSYNC", 63: "ZONEMD", 64: "SVCB", 65: "HTTPS", 99: "SPF", 108: "EUI48",
	109: "EUI64", 249: "TKEY", 250: "TSIG", 251: "IXFR", 252: "AXFR", 255: "ANY", 256: "URI", 257: "CAA",
}

// String returns the type's name, or TYPEn.
func (t DNSType) String() string {
	if s, ok := dnsTypes[t]; ok {
		return s
	}
	return "TYPE" + strconv.Itoa(int(t))
}

var dnsRCodes = [...]string{"NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET",
	"NXRRSET", "NOTAUTH", "NOTZONE"}

// String returns the code's name, or RCODEn.
func (c DNSRCode) String() string {
	if int(c) < len(dnsRCodes) {
		return dnsRCodes[c]
	}
	return "RCODE" + strconv.Itoa(int(c))
}
