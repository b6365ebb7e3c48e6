#!/bin/sh
# Packs what make install installs, for each architecture in each format, and says what the binaries are made of. make
# packages calls it, with everything in its environment. The same source gives the same bytes.
set -eu
: "$VERSION" "$SOURCE_DATE_EPOCH" "$ARCHS" "$FORMATS" "$NFPM" "$CYCLONEDX"
out=$1
umask 022
export SETUP=:

main() {
	rm -rf "$out"
	mkdir -p "$out"
	out=$(cd "$out" && pwd)
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	trap 'exit 1' HUP INT TERM
	write_scripts
	jobs=
	for arch in $ARCHS; do
		build_all &
		jobs="$jobs $!"
	done
	for job in $jobs; do wait "$job"; done
	(cd "$out" && sha256sum -- * >"$work/SHA256SUMS" && mv "$work/SHA256SUMS" .)
}

# write_scripts writes the scripts of the packages.
write_scripts() {
	sed 1d integration/packages/now.sh >"$work/now"
	for script in integration/packages/*/p*; do
		mkdir -p "$work/$(dirname "$script")"
		sed -e "/# @NOW@$/ { r $work/now" -e 'd; }' "$script" >"$work/$script"
		touch -d "@$SOURCE_DATE_EPOCH" "$work/$script" # an apk has the time of its script
	done
}

# build_all builds what there is for one architecture.
build_all() {
	bin=$work/bin-$arch root=$work/root-$arch
	case $arch in
	armv7) export GOARCH=arm GOARM=7 ;;
	*) export GOARCH="$arch" ;;
	esac
	make -s --no-print-directory build OUT="$bin"
	describe
	for format in $FORMATS; do
		rm -rf "$root"
		install_root
		pack
	done
}

# install_root installs where the format's distributions look. All their containers.conf name /usr/libexec/netavark.
install_root() {
	case $format in
	deb) cni=/usr/lib/cni zsh=vendor-completions ;;
	*) cni=/usr/libexec/cni zsh=site-functions ;; # Fedora, Alpine, and meta-virtualization of Yocto, where /opt/cni/bin is a link to it
	esac
	make -s --no-print-directory install OUT="$bin" PREFIX=/usr DESTDIR="$root" CNI_BIN=$cni ZSHDIR=/usr/share/zsh/$zsh >/dev/null
	[ "$format" != apk ] || rm -r "$root/usr/lib/systemd" "$root/usr/lib/udev" # no systemd, which the udev rule calls
	gzip -9n "$root"/usr/share/man/man8/*
	licenses >"$root/usr/share/doc/vxcan/copyright"
	find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
}

# licenses prints those of everything in the binaries.
licenses() {
	cat LICENSE
	go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}}	{{.Dir}}{{end}}{{end}}' ./plugins/... | sort -u |
		while IFS='	' read -r module dir; do
			printf '\n\nPart of the binaries is %s:\n\n' "$module"
			find "$dir" -maxdepth 1 \( -name 'LICENSE*' -o -name 'NOTICE*' \) -exec cat {} +
		done
	printf '\n\nPart of the binaries is the standard library of Go:\n\n'
	cat "$(go env GOROOT)/LICENSE"
}

pack() {
	sed -e "s|@ARCH@|$(package_arch)|; s|@VERSION@|$(package_version)|; s|@ROOT@|$root|; s|@SCRIPTS@|$work/integration/packages|" \
		-e "s|@MTIME@|$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)|" integration/packages/nfpm.yaml |
		"$NFPM" package --config - --packager "$format" --target "$out" >/dev/null
}

# package_arch is what the format calls the architecture. nfpm translates Go's names, except into those of Yocto.
package_arch() {
	case $format-$arch in
	ipk-amd64) echo x86_64 ;;
	ipk-arm64) echo aarch64 ;;
	ipk-armv7) echo armv7ahf-vfp ;;
	*-armv7) echo arm7 ;;
	*) echo "$arch" ;;
	esac
}

# package_version is what comes before and after a release in the format's order: 0.1.0-rc.1 and 0.1.0-unreleased before
# 0.1.0, and 0.1.0-5-g0123abc, which is git's for five commits later, after it.
package_version() {
	case $format in
	apk) echo "$VERSION" | sed 's/-dirty$//; s/-\([0-9]*\)-g.*/_p\1/; s/-unreleased/_pre/; s/-\([a-z]*\)\.*/_\1/' ;;
	*) echo "$VERSION" | sed 's/-dirty$/.dirty/; s/-\([0-9]*\)-g/+\1.g/; s/-/~/' ;;
	esac
}

# describe writes the SBOM of each binary of an architecture.
describe() {
	for file in vxcan netavark/vxcan vxcan-docker vxcanctl; do
		"$CYCLONEDX" bin -json -std -noserial -notimestamp -version "v$VERSION" \
			-output "$out/vxcan_${VERSION}_${arch}_$(echo "$file" | tr / -).cdx.json" "$bin/$file" 2>/dev/null
	done
}

main
