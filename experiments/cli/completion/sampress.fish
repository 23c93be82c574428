function __sampress_complete
    set -l current (commandline -ct)
    set -l before (commandline -opc)[2..-1]
    set -l command run
    for word in $before
        if contains -- $word (__sampress_commands)
            set command $word
            break
        end
    end
    if string match -q -- '*=*' $current
        set -l key (string split -m 1 = -- $current)[1]
        set -l rest (string split -m 1 = -- $current)[2]
        set -l start $key=
        if string match -q -- '*,*' $rest
            set start $start(string replace -r '[^,]*$' '' -- $rest)
        end
        for value in (__sampress_values $command $key)
            echo $start$value
        end
        if __sampress_is_path $key
            for path in (__fish_complete_path $rest)
                echo $key=$path
            end
        end
        return
    end
    if test (count $before) -eq 0
        __sampress_commands
    else if test $before[-1] = completion
        __sampress_values completion shell
        return
    end
    set -l keys (__sampress_keys $command)
    for group in method then data logger
        set -l choice (__sampress_default "$command $group")
        for word in $before
            if string match -q -- "$group=*" $word
                set choice (string split -m 1 = -- $word)[2]
            end
        end
        if test -n "$choice"
            set -a keys (__sampress_below $group=$choice)
        end
    end
    for key in $keys
        echo $key=
    end
    test $command = compare; and __fish_complete_path $current
end

complete -c sampress -f -a '(__sampress_complete)'
complete -c sampress -s h -l help -d 'all settings'
complete -c sampress -s m -d 'every combination of values'
complete -c sampress -l cfg -x -a job -d 'show all settings'
