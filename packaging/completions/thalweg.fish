# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_thalweg_global_optspecs
    string join \n h/help V/version
end

function __fish_thalweg_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_thalweg_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_thalweg_using_subcommand
    set -l cmd (__fish_thalweg_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c thalweg -n "__fish_thalweg_needs_command" -s h -l help -d 'Print help'
complete -c thalweg -n "__fish_thalweg_needs_command" -s V -l version -d 'Print version'
complete -c thalweg -n "__fish_thalweg_needs_command" -f -a "run" -d 'Run the daemon until SIGTERM or SIGINT; exit code 1 if it could not start or broke'
complete -c thalweg -n "__fish_thalweg_needs_command" -f -a "status" -d 'Show this node on one screen'
complete -c thalweg -n "__fish_thalweg_needs_command" -f -a "peers" -d 'List the nodes of the mesh'
complete -c thalweg -n "__fish_thalweg_needs_command" -f -a "links" -d 'List the links of this node with what was measured of them, by probes and by data, and what repairing them costs'
complete -c thalweg -n "__fish_thalweg_needs_command" -f -a "paths" -d 'List the paths in force; exit code 1 where there is none'
complete -c thalweg -n "__fish_thalweg_needs_command" -f -a "explain" -d 'Tell why packets to a destination take the path they take; exit code 1 where there is none'
complete -c thalweg -n "__fish_thalweg_needs_command" -f -a "matrix" -d 'Show every link of the mesh as this node knows it: one-way delay in ms and loss before repair'
complete -c thalweg -n "__fish_thalweg_needs_command" -f -a "ping" -d 'Send echoes to a destination through the overlay, as its packets go; exit code 1 if none is answered'
complete -c thalweg -n "__fish_thalweg_needs_command" -f -a "trace" -d 'Show the path to a destination hop by hop, and ask each node on it for an echo; exit code 1 where there is no path'
complete -c thalweg -n "__fish_thalweg_needs_command" -f -a "events" -d 'Show what happened lately: sessions, links, paths, refusals, reloads'
complete -c thalweg -n "__fish_thalweg_needs_command" -f -a "drops" -d 'Show what came to nothing: every reason with its count, what it means and what to do'
complete -c thalweg -n "__fish_thalweg_needs_command" -f -a "record" -d 'Write down the round trips of this node\'s links, as `netsim replay` and training read them'
complete -c thalweg -n "__fish_thalweg_needs_command" -f -a "reload" -d 'Have the daemon read its configuration again, as SIGHUP does; exit code 2 if it refused the file'
complete -c thalweg -n "__fish_thalweg_needs_command" -f -a "config" -d 'Check configuration files'
complete -c thalweg -n "__fish_thalweg_needs_command" -f -a "policy" -d 'Test what a policy does with the mesh as it was'
complete -c thalweg -n "__fish_thalweg_needs_command" -f -a "completions" -d 'Print what a shell needs to complete this program\'s arguments'
complete -c thalweg -n "__fish_thalweg_needs_command" -f -a "man" -d 'Write the man pages'
complete -c thalweg -n "__fish_thalweg_needs_command" -f -a "cert" -d 'Make a CA, issue and show certificates'
complete -c thalweg -n "__fish_thalweg_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c thalweg -n "__fish_thalweg_using_subcommand run" -l config -d 'The configuration file' -r -F
complete -c thalweg -n "__fish_thalweg_using_subcommand run" -s h -l help -d 'Print help'
complete -c thalweg -n "__fish_thalweg_using_subcommand run" -s V -l version -d 'Print version'
complete -c thalweg -n "__fish_thalweg_using_subcommand status" -l socket -d 'The daemon\'s admin socket' -r -F
complete -c thalweg -n "__fish_thalweg_using_subcommand status" -l json -d 'Print JSON with a schema_version'
complete -c thalweg -n "__fish_thalweg_using_subcommand status" -s h -l help -d 'Print help'
complete -c thalweg -n "__fish_thalweg_using_subcommand status" -s V -l version -d 'Print version'
complete -c thalweg -n "__fish_thalweg_using_subcommand peers" -l socket -d 'The daemon\'s admin socket' -r -F
complete -c thalweg -n "__fish_thalweg_using_subcommand peers" -l json -d 'Print JSON with a schema_version'
complete -c thalweg -n "__fish_thalweg_using_subcommand peers" -s h -l help -d 'Print help'
complete -c thalweg -n "__fish_thalweg_using_subcommand peers" -s V -l version -d 'Print version'
complete -c thalweg -n "__fish_thalweg_using_subcommand links" -l socket -d 'The daemon\'s admin socket' -r -F
complete -c thalweg -n "__fish_thalweg_using_subcommand links" -l json -d 'Print JSON with a schema_version'
complete -c thalweg -n "__fish_thalweg_using_subcommand links" -s h -l help -d 'Print help'
complete -c thalweg -n "__fish_thalweg_using_subcommand links" -s V -l version -d 'Print version'
complete -c thalweg -n "__fish_thalweg_using_subcommand paths" -l socket -d 'The daemon\'s admin socket' -r -F
complete -c thalweg -n "__fish_thalweg_using_subcommand paths" -l json -d 'Print JSON with a schema_version'
complete -c thalweg -n "__fish_thalweg_using_subcommand paths" -s h -l help -d 'Print help'
complete -c thalweg -n "__fish_thalweg_using_subcommand paths" -s V -l version -d 'Print version'
complete -c thalweg -n "__fish_thalweg_using_subcommand explain" -l class -d 'Packets of this class' -r
complete -c thalweg -n "__fish_thalweg_using_subcommand explain" -l dscp -d 'Packets with this DSCP, by name (EF) or number (46)' -r
complete -c thalweg -n "__fish_thalweg_using_subcommand explain" -l protocol -d 'Packets of this transport protocol, by name (udp) or number (17)' -r
complete -c thalweg -n "__fish_thalweg_using_subcommand explain" -l port -d 'Packets with this port at one end' -r
complete -c thalweg -n "__fish_thalweg_using_subcommand explain" -l socket -d 'The daemon\'s admin socket' -r -F
complete -c thalweg -n "__fish_thalweg_using_subcommand explain" -l json -d 'Print JSON with a schema_version'
complete -c thalweg -n "__fish_thalweg_using_subcommand explain" -s h -l help -d 'Print help'
complete -c thalweg -n "__fish_thalweg_using_subcommand explain" -s V -l version -d 'Print version'
complete -c thalweg -n "__fish_thalweg_using_subcommand matrix" -l socket -d 'The daemon\'s admin socket' -r -F
complete -c thalweg -n "__fish_thalweg_using_subcommand matrix" -l json -d 'Print JSON with a schema_version'
complete -c thalweg -n "__fish_thalweg_using_subcommand matrix" -s h -l help -d 'Print help'
complete -c thalweg -n "__fish_thalweg_using_subcommand matrix" -s V -l version -d 'Print version'
complete -c thalweg -n "__fish_thalweg_using_subcommand ping" -s c -l count -d 'How many' -r
complete -c thalweg -n "__fish_thalweg_using_subcommand ping" -s i -l interval -d 'Time between two, like 200ms' -r
complete -c thalweg -n "__fish_thalweg_using_subcommand ping" -l dscp -d 'With this DSCP, by name (EF) or number (46): its class and path are measured' -r
complete -c thalweg -n "__fish_thalweg_using_subcommand ping" -l socket -d 'The daemon\'s admin socket' -r -F
complete -c thalweg -n "__fish_thalweg_using_subcommand ping" -l json -d 'Print JSON with a schema_version'
complete -c thalweg -n "__fish_thalweg_using_subcommand ping" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c thalweg -n "__fish_thalweg_using_subcommand ping" -s V -l version -d 'Print version'
complete -c thalweg -n "__fish_thalweg_using_subcommand trace" -l class -d 'Packets of this class' -r
complete -c thalweg -n "__fish_thalweg_using_subcommand trace" -l dscp -d 'Packets with this DSCP, by name (EF) or number (46)' -r
complete -c thalweg -n "__fish_thalweg_using_subcommand trace" -l protocol -d 'Packets of this transport protocol, by name (udp) or number (17)' -r
complete -c thalweg -n "__fish_thalweg_using_subcommand trace" -l port -d 'Packets with this port at one end' -r
complete -c thalweg -n "__fish_thalweg_using_subcommand trace" -l socket -d 'The daemon\'s admin socket' -r -F
complete -c thalweg -n "__fish_thalweg_using_subcommand trace" -l no-echo -d 'Send no echoes'
complete -c thalweg -n "__fish_thalweg_using_subcommand trace" -l json -d 'Print JSON with a schema_version'
complete -c thalweg -n "__fish_thalweg_using_subcommand trace" -s h -l help -d 'Print help'
complete -c thalweg -n "__fish_thalweg_using_subcommand trace" -s V -l version -d 'Print version'
complete -c thalweg -n "__fish_thalweg_using_subcommand events" -l socket -d 'The daemon\'s admin socket' -r -F
complete -c thalweg -n "__fish_thalweg_using_subcommand events" -s f -l follow -d 'Go on telling what happens until interrupted or the daemon ends'
complete -c thalweg -n "__fish_thalweg_using_subcommand events" -l json -d 'Print JSON with a schema_version'
complete -c thalweg -n "__fish_thalweg_using_subcommand events" -s h -l help -d 'Print help'
complete -c thalweg -n "__fish_thalweg_using_subcommand events" -s V -l version -d 'Print version'
complete -c thalweg -n "__fish_thalweg_using_subcommand drops" -l socket -d 'The daemon\'s admin socket' -r -F
complete -c thalweg -n "__fish_thalweg_using_subcommand drops" -l all -d 'Also the reasons that never occurred'
complete -c thalweg -n "__fish_thalweg_using_subcommand drops" -l json -d 'Print JSON with a schema_version'
complete -c thalweg -n "__fish_thalweg_using_subcommand drops" -s h -l help -d 'Print help'
complete -c thalweg -n "__fish_thalweg_using_subcommand drops" -s V -l version -d 'Print version'
complete -c thalweg -n "__fish_thalweg_using_subcommand record" -l for -d 'End after this long, like 24h' -r
complete -c thalweg -n "__fish_thalweg_using_subcommand record" -l socket -d 'The daemon\'s admin socket' -r -F
complete -c thalweg -n "__fish_thalweg_using_subcommand record" -l json -d 'Print JSON with a schema_version'
complete -c thalweg -n "__fish_thalweg_using_subcommand record" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c thalweg -n "__fish_thalweg_using_subcommand record" -s V -l version -d 'Print version'
complete -c thalweg -n "__fish_thalweg_using_subcommand reload" -l socket -d 'The daemon\'s admin socket' -r -F
complete -c thalweg -n "__fish_thalweg_using_subcommand reload" -l json -d 'Print JSON with a schema_version'
complete -c thalweg -n "__fish_thalweg_using_subcommand reload" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c thalweg -n "__fish_thalweg_using_subcommand reload" -s V -l version -d 'Print version'
complete -c thalweg -n "__fish_thalweg_using_subcommand config; and not __fish_seen_subcommand_from check help" -s h -l help -d 'Print help'
complete -c thalweg -n "__fish_thalweg_using_subcommand config; and not __fish_seen_subcommand_from check help" -s V -l version -d 'Print version'
complete -c thalweg -n "__fish_thalweg_using_subcommand config; and not __fish_seen_subcommand_from check help" -f -a "check" -d 'Check a configuration and every file it names; exit code 2 if something is wrong'
complete -c thalweg -n "__fish_thalweg_using_subcommand config; and not __fish_seen_subcommand_from check help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c thalweg -n "__fish_thalweg_using_subcommand config; and __fish_seen_subcommand_from check" -l json -d 'Print JSON with a schema_version'
complete -c thalweg -n "__fish_thalweg_using_subcommand config; and __fish_seen_subcommand_from check" -s h -l help -d 'Print help'
complete -c thalweg -n "__fish_thalweg_using_subcommand config; and __fish_seen_subcommand_from check" -s V -l version -d 'Print version'
complete -c thalweg -n "__fish_thalweg_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "check" -d 'Check a configuration and every file it names; exit code 2 if something is wrong'
complete -c thalweg -n "__fish_thalweg_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c thalweg -n "__fish_thalweg_using_subcommand policy; and not __fish_seen_subcommand_from test help" -s h -l help -d 'Print help'
complete -c thalweg -n "__fish_thalweg_using_subcommand policy; and not __fish_seen_subcommand_from test help" -s V -l version -d 'Print version'
complete -c thalweg -n "__fish_thalweg_using_subcommand policy; and not __fish_seen_subcommand_from test help" -f -a "test" -d 'Check expectations ("gaming from a to b never over c"); exit code 1 if one does not hold'
complete -c thalweg -n "__fish_thalweg_using_subcommand policy; and not __fish_seen_subcommand_from test help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c thalweg -n "__fish_thalweg_using_subcommand policy; and __fish_seen_subcommand_from test" -l json -d 'Print JSON with a schema_version'
complete -c thalweg -n "__fish_thalweg_using_subcommand policy; and __fish_seen_subcommand_from test" -s h -l help -d 'Print help'
complete -c thalweg -n "__fish_thalweg_using_subcommand policy; and __fish_seen_subcommand_from test" -s V -l version -d 'Print version'
complete -c thalweg -n "__fish_thalweg_using_subcommand policy; and __fish_seen_subcommand_from help" -f -a "test" -d 'Check expectations ("gaming from a to b never over c"); exit code 1 if one does not hold'
complete -c thalweg -n "__fish_thalweg_using_subcommand policy; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c thalweg -n "__fish_thalweg_using_subcommand completions" -s h -l help -d 'Print help'
complete -c thalweg -n "__fish_thalweg_using_subcommand completions" -s V -l version -d 'Print version'
complete -c thalweg -n "__fish_thalweg_using_subcommand man" -l out -d 'Directory to write them to' -r -F
complete -c thalweg -n "__fish_thalweg_using_subcommand man" -s h -l help -d 'Print help'
complete -c thalweg -n "__fish_thalweg_using_subcommand man" -s V -l version -d 'Print version'
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and not __fish_seen_subcommand_from ca issue revoke show help" -s h -l help -d 'Print help'
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and not __fish_seen_subcommand_from ca issue revoke show help" -s V -l version -d 'Print version'
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and not __fish_seen_subcommand_from ca issue revoke show help" -f -a "ca" -d 'Make a CA: its key, its certificate and the ledger of what it issues'
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and not __fish_seen_subcommand_from ca issue revoke show help" -f -a "issue" -d 'Issue a node\'s certificate and key; its number comes from the CA\'s ledger'
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and not __fish_seen_subcommand_from ca issue revoke show help" -f -a "revoke" -d 'Revoke a node\'s certificates: writes the CA\'s list, `ca.crl`, anew'
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and not __fish_seen_subcommand_from ca issue revoke show help" -f -a "show" -d 'Show what a certificate grants'
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and not __fish_seen_subcommand_from ca issue revoke show help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and __fish_seen_subcommand_from ca" -l out -d 'Directory to make it in' -r -F
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and __fish_seen_subcommand_from ca" -l name -d 'Name of the CA' -r
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and __fish_seen_subcommand_from ca" -l days -d 'Days until it ends' -r
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and __fish_seen_subcommand_from ca" -l succeeds -d 'Directory of the CA this one succeeds: its ledger is taken over' -r -F
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and __fish_seen_subcommand_from ca" -s h -l help -d 'Print help'
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and __fish_seen_subcommand_from ca" -s V -l version -d 'Print version'
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and __fish_seen_subcommand_from issue" -l ca -d 'Directory of the CA' -r -F
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and __fish_seen_subcommand_from issue" -l name -d 'Name of the node' -r
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and __fish_seen_subcommand_from issue" -l address -d 'Overlay address of the node; may be repeated, one per family is usual' -r
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and __fish_seen_subcommand_from issue" -l prefix -d 'Site prefix the node may announce; may be repeated' -r
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and __fish_seen_subcommand_from issue" -l days -d 'Days until it ends' -r
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and __fish_seen_subcommand_from issue" -l out -d 'Directory to write NAME.crt, NAME.key and ca.crt to' -r -F
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and __fish_seen_subcommand_from issue" -l no-relay -d 'Forbid the node to relay for others'
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and __fish_seen_subcommand_from issue" -l renew -d 'Give a known node a new certificate and key; what is not said stays as it was'
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and __fish_seen_subcommand_from issue" -l json -d 'Print JSON with a schema_version'
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and __fish_seen_subcommand_from issue" -s h -l help -d 'Print help'
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and __fish_seen_subcommand_from issue" -s V -l version -d 'Print version'
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and __fish_seen_subcommand_from revoke" -l ca -d 'Directory of the CA' -r -F
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and __fish_seen_subcommand_from revoke" -l name -d 'Name of the node' -r
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and __fish_seen_subcommand_from revoke" -l certificate -d 'Only this certificate of the node, PEM' -r -F
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and __fish_seen_subcommand_from revoke" -l json -d 'Print JSON with a schema_version'
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and __fish_seen_subcommand_from revoke" -s h -l help -d 'Print help'
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and __fish_seen_subcommand_from revoke" -s V -l version -d 'Print version'
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and __fish_seen_subcommand_from show" -l ca -d 'Also judge it by this CA certificate, now; may be repeated; exit code 1 if it is refused' -r -F
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and __fish_seen_subcommand_from show" -l json -d 'Print JSON with a schema_version'
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help'
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and __fish_seen_subcommand_from show" -s V -l version -d 'Print version'
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and __fish_seen_subcommand_from help" -f -a "ca" -d 'Make a CA: its key, its certificate and the ledger of what it issues'
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and __fish_seen_subcommand_from help" -f -a "issue" -d 'Issue a node\'s certificate and key; its number comes from the CA\'s ledger'
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and __fish_seen_subcommand_from help" -f -a "revoke" -d 'Revoke a node\'s certificates: writes the CA\'s list, `ca.crl`, anew'
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and __fish_seen_subcommand_from help" -f -a "show" -d 'Show what a certificate grants'
complete -c thalweg -n "__fish_thalweg_using_subcommand cert; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c thalweg -n "__fish_thalweg_using_subcommand help; and not __fish_seen_subcommand_from run status peers links paths explain matrix ping trace events drops record reload config policy completions man cert help" -f -a "run" -d 'Run the daemon until SIGTERM or SIGINT; exit code 1 if it could not start or broke'
complete -c thalweg -n "__fish_thalweg_using_subcommand help; and not __fish_seen_subcommand_from run status peers links paths explain matrix ping trace events drops record reload config policy completions man cert help" -f -a "status" -d 'Show this node on one screen'
complete -c thalweg -n "__fish_thalweg_using_subcommand help; and not __fish_seen_subcommand_from run status peers links paths explain matrix ping trace events drops record reload config policy completions man cert help" -f -a "peers" -d 'List the nodes of the mesh'
complete -c thalweg -n "__fish_thalweg_using_subcommand help; and not __fish_seen_subcommand_from run status peers links paths explain matrix ping trace events drops record reload config policy completions man cert help" -f -a "links" -d 'List the links of this node with what was measured of them, by probes and by data, and what repairing them costs'
complete -c thalweg -n "__fish_thalweg_using_subcommand help; and not __fish_seen_subcommand_from run status peers links paths explain matrix ping trace events drops record reload config policy completions man cert help" -f -a "paths" -d 'List the paths in force; exit code 1 where there is none'
complete -c thalweg -n "__fish_thalweg_using_subcommand help; and not __fish_seen_subcommand_from run status peers links paths explain matrix ping trace events drops record reload config policy completions man cert help" -f -a "explain" -d 'Tell why packets to a destination take the path they take; exit code 1 where there is none'
complete -c thalweg -n "__fish_thalweg_using_subcommand help; and not __fish_seen_subcommand_from run status peers links paths explain matrix ping trace events drops record reload config policy completions man cert help" -f -a "matrix" -d 'Show every link of the mesh as this node knows it: one-way delay in ms and loss before repair'
complete -c thalweg -n "__fish_thalweg_using_subcommand help; and not __fish_seen_subcommand_from run status peers links paths explain matrix ping trace events drops record reload config policy completions man cert help" -f -a "ping" -d 'Send echoes to a destination through the overlay, as its packets go; exit code 1 if none is answered'
complete -c thalweg -n "__fish_thalweg_using_subcommand help; and not __fish_seen_subcommand_from run status peers links paths explain matrix ping trace events drops record reload config policy completions man cert help" -f -a "trace" -d 'Show the path to a destination hop by hop, and ask each node on it for an echo; exit code 1 where there is no path'
complete -c thalweg -n "__fish_thalweg_using_subcommand help; and not __fish_seen_subcommand_from run status peers links paths explain matrix ping trace events drops record reload config policy completions man cert help" -f -a "events" -d 'Show what happened lately: sessions, links, paths, refusals, reloads'
complete -c thalweg -n "__fish_thalweg_using_subcommand help; and not __fish_seen_subcommand_from run status peers links paths explain matrix ping trace events drops record reload config policy completions man cert help" -f -a "drops" -d 'Show what came to nothing: every reason with its count, what it means and what to do'
complete -c thalweg -n "__fish_thalweg_using_subcommand help; and not __fish_seen_subcommand_from run status peers links paths explain matrix ping trace events drops record reload config policy completions man cert help" -f -a "record" -d 'Write down the round trips of this node\'s links, as `netsim replay` and training read them'
complete -c thalweg -n "__fish_thalweg_using_subcommand help; and not __fish_seen_subcommand_from run status peers links paths explain matrix ping trace events drops record reload config policy completions man cert help" -f -a "reload" -d 'Have the daemon read its configuration again, as SIGHUP does; exit code 2 if it refused the file'
complete -c thalweg -n "__fish_thalweg_using_subcommand help; and not __fish_seen_subcommand_from run status peers links paths explain matrix ping trace events drops record reload config policy completions man cert help" -f -a "config" -d 'Check configuration files'
complete -c thalweg -n "__fish_thalweg_using_subcommand help; and not __fish_seen_subcommand_from run status peers links paths explain matrix ping trace events drops record reload config policy completions man cert help" -f -a "policy" -d 'Test what a policy does with the mesh as it was'
complete -c thalweg -n "__fish_thalweg_using_subcommand help; and not __fish_seen_subcommand_from run status peers links paths explain matrix ping trace events drops record reload config policy completions man cert help" -f -a "completions" -d 'Print what a shell needs to complete this program\'s arguments'
complete -c thalweg -n "__fish_thalweg_using_subcommand help; and not __fish_seen_subcommand_from run status peers links paths explain matrix ping trace events drops record reload config policy completions man cert help" -f -a "man" -d 'Write the man pages'
complete -c thalweg -n "__fish_thalweg_using_subcommand help; and not __fish_seen_subcommand_from run status peers links paths explain matrix ping trace events drops record reload config policy completions man cert help" -f -a "cert" -d 'Make a CA, issue and show certificates'
complete -c thalweg -n "__fish_thalweg_using_subcommand help; and not __fish_seen_subcommand_from run status peers links paths explain matrix ping trace events drops record reload config policy completions man cert help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c thalweg -n "__fish_thalweg_using_subcommand help; and __fish_seen_subcommand_from config" -f -a "check" -d 'Check a configuration and every file it names; exit code 2 if something is wrong'
complete -c thalweg -n "__fish_thalweg_using_subcommand help; and __fish_seen_subcommand_from policy" -f -a "test" -d 'Check expectations ("gaming from a to b never over c"); exit code 1 if one does not hold'
complete -c thalweg -n "__fish_thalweg_using_subcommand help; and __fish_seen_subcommand_from cert" -f -a "ca" -d 'Make a CA: its key, its certificate and the ledger of what it issues'
complete -c thalweg -n "__fish_thalweg_using_subcommand help; and __fish_seen_subcommand_from cert" -f -a "issue" -d 'Issue a node\'s certificate and key; its number comes from the CA\'s ledger'
complete -c thalweg -n "__fish_thalweg_using_subcommand help; and __fish_seen_subcommand_from cert" -f -a "revoke" -d 'Revoke a node\'s certificates: writes the CA\'s list, `ca.crl`, anew'
complete -c thalweg -n "__fish_thalweg_using_subcommand help; and __fish_seen_subcommand_from cert" -f -a "show" -d 'Show what a certificate grants'
